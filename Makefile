# Two commands for a fresh clone: `make ablation` and `make test`. Both set up .venv first.
PYTHON ?= python3
SWEEP ?= experiments/sweeps/num_queries.yaml
BIN := .venv/bin
SETUP := .venv/.installed

.PHONY: ablation test test-notebooks test-slow test-all lint clean

ablation: $(SETUP)            ## train and compare the three stages for several query counts
	$(BIN)/qk sweep $(SWEEP)

test: $(SETUP)                ## the default test set
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-notebooks: $(SETUP)      ## the notebooks, from top to bottom
	$(BIN)/python -m pytest -n 2 --dist load -m slow tests/test_notebooks.py

test-slow: $(SETUP)           ## what takes minutes: notebooks, documented commands
	$(BIN)/python -m pytest -n 2 --dist load -m "slow and not gpu and not network"

test-all: $(SETUP)            ## every test, those that need a GPU or the internet too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ""

lint: $(SETUP)                ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(SETUP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo "setting up .venv: about 2 GB of packages, some minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]" --constraint constraints.txt
	@touch $(SETUP)

clean:                        ## remove what tools leave; runs/ stays
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
