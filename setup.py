"""Installs qk_lightning; the presets in `experiments/` travel with it as package data."""

from pathlib import Path

from setuptools import find_packages, setup

PRESETS = "qk_lightning.experiments"
# `ipykernel` runs a notebook's cells, `nbclient` runs a notebook without a browser.
NOTEBOOKS = ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"]
RAY = ["ray>=2.9"]
SUBMITIT = ["submitit>=1.5"]
SEARCH = ["optuna>=4.2"]

setup(
    name="qk_lightning",
    version="0.1.0",
    description="Ablations of unified image generation and editing, composed from YAML",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["qk_lightning", "qk_lightning.*"]), PRESETS],
    package_dir={PRESETS: "experiments"},
    package_data={
        PRESETS: ["**/*.yaml"],
        "qk_lightning": ["weights/**/*", "py.typed"],
    },
    entry_points={"console_scripts": ["qk = qk_lightning.cli.main:main"]},
    install_requires=[
        "torch>=2.6",
        "lightning>=2.6",
        "transformers>=5.0",
        "diffusers>=0.36",
        "torchmetrics>=1.7",
        "omegaconf>=2.4",
        "peft>=0.18",
        "safetensors>=0.5",
        "tokenizers>=0.21",
        "numpy>=1.26",
        "scipy>=1.11",
        "joblib>=1.3",
        "pillow>=10.1",
        "rich>=13.0",
        "matplotlib>=3.8",
        "dicebear-core>=10.7,<11",
        "dicebear-styles>=10.6,<11",
        "resvg-py>=0.2",
        "mlflow>=3.1",
        "argcomplete>=3.5",
    ],
    extras_require={
        "gguf": ["gguf>=0.10"],  # language models in GGUF files; see parts/vlms/from_gguf.py
        # `qk generate --ui`. It wants pillow below 13, so not with `--constraint constraints.txt`.
        "ui": ["gradio>=6.31"],
        "ray": RAY,  # qk sweep --executor ray
        "submitit": SUBMITIT,  # qk sweep --executor submitit: SLURM
        "search": SEARCH,  # sweeps with `search:`; see sweeps/study.py
        "notebooks": ["jupyterlab>=4.2", "ipywidgets>=8.1", *NOTEBOOKS],
        "dev": [
            *NOTEBOOKS,
            *RAY,
            *SUBMITIT,
            *SEARCH,
            "pytest>=8.0",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "mypy>=1.14",
            "pre-commit>=4.0",
        ],
    },
)
