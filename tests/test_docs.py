"""README and docs: their commands plan, the cheap ones run, their files and Python code work.

A block after `<!-- file: NAME -->` is written to NAME, in a root that vanishes; one after
`<!-- output -->` is what the Python block before it prints. A `py` block names runs and files of a
reader's own and is not run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_commands import PAGES, REPOSITORY, blocks, commands, plan
from PIL import Image

from qk_lightning.cli.main import main
from qk_lightning.cli.train import sweep_file
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.schema import schema_of

# Neither run nor planned, with the reason.
NOT_RUN = {
    "make ablation": "sets up .venv; test_make_ablation_with_the_smoke_sweep runs it without",
    "make test": "it is what runs this",
    "source .venv/bin/activate": "changes the shell it is typed in",
    "export PYTHONPATH=.": "changes the shell it is typed in; the tests set their own path",
    "pip install -e .[notebooks] --constraint constraints.txt": "installs; `make test` does so too",
    "torchrun --nproc_per_node 2 -m qk_lightning fit avatars/stage3 all.trainer.devices=2 "
    "all.trainer.strategy=fsdp": "trains; test_lost_ranks and test_stopped_ranks use torchrun",
    "jupyter lab notebooks": "a server that does not end; test_notebooks runs the notebooks",
}


EVERY = [
    pytest.param(page, words, id=f"{page.stem}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


@pytest.fixture
def written(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a page's files, and the pictures its jsonl names, to the root; work there."""
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))

    def write(page: Path) -> None:
        for marker, name, language, text in blocks(page):
            if marker == "file":
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text.replace("/weights/", f"{root}/weights/"))
            elif language == "json":
                (root / "my.jsonl").write_text(text)
        for file in root.glob("*.jsonl"):
            for name in set(re.findall(r"[\w/]+\.png", file.read_text())):
                Image.new("RGB", (40, 32), (len(name) * 20, 40, 90)).save(root / name)

    yield write
    for name in [name for name in sys.modules if name == "my_connectors"]:
        del sys.modules[name]
    schema_of.cache_clear()


@pytest.fixture
def weights(root: Path) -> None:
    """Put folders where the page on clusters has its weights."""
    builtin = REPOSITORY / "qk_lightning" / "weights"
    shutil.copytree(builtin / "laptop_vlm", root / "weights" / "Qwen2.5-VL-3B-Instruct")
    for name in ("vae", "transformer"):
        shutil.copytree(builtin / "laptop_head_light", root / "weights/FLUX.1-schnell" / name)


@pytest.mark.parametrize(("page", "words"), EVERY)
def test_a_documented_command_plans(page, words, written, capsys) -> None:
    if " ".join(words) in NOT_RUN:
        return
    written(page)
    assert words[0] == "qk", f"{words} is neither planned nor in NOT_RUN"
    plan(words[1:])
    assert "Traceback" not in capsys.readouterr().err


def test_every_command_that_is_not_run_stands_in_the_docs() -> None:
    said = {" ".join(words) for page in PAGES for words in commands(page)}
    assert set(NOT_RUN) <= said


@pytest.mark.parametrize("target", ["ablation", "test"])
def test_the_two_commands_of_the_readme_are_in_the_makefile(target: str) -> None:
    words = ["make", "--dry-run", "--old-file=.venv/.installed", target]
    said = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    expected = {"ablation": "qk sweep experiments/sweeps/num_queries.yaml", "test": "-m pytest"}
    assert expected[target] in said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_prints_what_the_page_says(page: Path, written) -> None:
    written(page)
    space: dict[str, object] = {}
    printed = ""
    for marker, name, language, text in blocks(page):
        if marker == "output":
            assert printed.rstrip() == text.rstrip()
        elif language == "python":
            out = io.StringIO()
            code = compile(text, name or page.name, "exec")
            with contextlib.redirect_stdout(out):
                exec(code, space)
            printed = out.getvalue()
    for name, function in space.items():
        if name.startswith("test_"):
            function()


def test_yaml_files_of_the_pages_plan(written, weights, root: Path) -> None:
    for page in PAGES:
        written(page)
    (root / "train.jsonl").write_text((root / "my.jsonl").read_text())
    files = [name for page in PAGES for _, name, kind, _ in blocks(page) if name and kind == "yaml"]
    for name in files:
        text = (root / name).read_text().replace("/data/train.jsonl", f"{root}/train.jsonl")
        (root / name).write_text(text)
        if "\naxes:" in text:
            plan(["sweep", str(root / name)])
        else:
            assert plan_chain(root / name)[-1].cfg.name == Path(name).stem
    assert len(files) >= 4


@pytest.fixture
def stand_ins(tiny_presets: Path) -> None:
    """Put tiny stages in the place of the presets that the README names."""
    folder = tiny_presets.parent / "avatars"
    folder.mkdir()
    for number in (1, 2, 3):
        parent = f"parent: avatars/stage{number - 1}\n" if number > 1 else ""
        text = f"defaults: [tiny/stage{number}]\nname: stage{number}\n{parent}"
        (folder / f"stage{number}.yaml").write_text(text)


@pytest.mark.slow
def test_commands_on_a_trained_run_do_what_the_readme_says(stand_ins, written, root, capsys):
    page = REPOSITORY / "README.md"
    written(page)
    assert main(["fit", "avatars/stage3"]) == 0
    done = []
    for words in commands(page):
        if words[:2] == ["qk", "generate"] or words[:3] == ["qk", "evaluate", "avatars/stage3"]:
            limit = ["--limit", "2"] if words[1] == "evaluate" else []
            assert main([*words[1:], *limit]) == 0
            done.append(words[1])
    assert sorted(done) == ["evaluate", "generate"]
    assert len(list((root / "generated").glob("*.png"))) == 4
    said = capsys.readouterr().out
    assert "attributes" in said and "Traceback" not in said


def test_the_colours_of_scenes_in_the_docs_are_those_of_the_code() -> None:
    from qk_lightning.data.worlds.scene_graph import BACKGROUNDS, COLOURS

    text = (REPOSITORY / "docs" / "evaluation.md").read_text()
    found = re.findall(r"^\| (colour|background) \| (\w+) \| (\d+), (\d+), (\d+) \|$", text, re.M)
    said = {(kind, name): tuple(map(int, rgb)) for kind, name, *rgb in found}
    kinds = {"colour": COLOURS, "background": BACKGROUNDS}
    assert said == {(kind, name): rgb for kind in kinds for name, rgb in kinds[kind].items()}
    size = schema_of("world", "scenes").options["size"]
    assert (size.type_text, size.default) == ("Literal[32, 64]", 32)
    assert "32 x 32 pixels (or\n64 x 64: `scenes.size=64`)" in text


@pytest.mark.slow
def test_the_connector_of_the_docs_trains_and_draws(stand_ins, written, root: Path) -> None:
    page = REPOSITORY / "docs" / "add_a_connector.md"
    written(page)
    for words in commands(page):
        if words[:2] in (["qk", "fit"], ["qk", "generate"]):
            quick = [word.replace("max_steps=20", "max_steps=2") for word in words[1:]]
            assert main(quick) == 0
    assert len(list((root / "drawn").glob("*.png"))) == 2
    assert sweep_file("connectors.yaml").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_make_ablation_with_the_smoke_sweep(root: Path) -> None:
    tool = root / "bin" / "qk"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m qk_lightning "$@"\n')
    tool.chmod(0o755)
    words = ["make", "--old-file=.venv/.installed", "ablation", f"BIN={tool.parent}"]
    words.append("SWEEP=experiments/sweeps/smoke.yaml")
    environment = {**os.environ, "QK_ROOT": str(root), "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for expected in ("stage3", "num_queries=4", "not tested (1 < 3 seeds)", "report.md"):
        assert expected in ended.stdout
    assert (root / "runs" / "sweeps" / "smoke" / "report.md").is_file()
