"""The command line: exit codes, clear errors without a traceback, nothing written by mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from qk_lightning.cli.main import main

pytestmark = pytest.mark.usefixtures("tiny_presets")


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command and return what it printed."""
    assert main(words) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out + captured.err


def write_jsonl(root: Path, *lines: str) -> Path:
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 0, 0)).save(root / f"{number}.png")
    (root / "broken.png").write_bytes(b"this is no picture")
    file = root / "mine.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


GOOD = json.dumps({"prompt": "red", "target": "0.png"})


def test_the_parent_process_imports_no_torch() -> None:
    code = "import sys; from qk_lightning.cli.main import main; main(['config', 'tiny/stage1']); "
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'lightning', 'mlflow', 'numpy')))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_plan_says_which_overrides_reach_which_stage(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "fit", "tiny/stage3", "--plan", "queries.num_queries=3", "stage1.seed=4")
    lines = text.splitlines()
    after = {line.split()[0]: lines[number + 1].split("with ")[-1]
             for number, line in enumerate(lines) if line.startswith("stage")}  # fmt: skip
    assert after["stage1"] == "queries.num_queries=3, seed=4"
    assert after["stage3"] == "queries.num_queries=3"


def test_check_finds_what_a_plan_cannot_and_needs_no_accelerator(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    words = ("fit", "tiny/stage3", "trainer.accelerator=tpu", "stage1.trainer.accelerator=tpu")
    assert "they do; nothing was started" in said(capsys, *words, "--check")
    wrong = "stage2.connector.hidden_size=5"
    text = said(capsys, "fit", "tiny/stage3", wrong, "--plan")
    assert text.splitlines()[-1].endswith("or now: --check")
    assert "stage2.from_parent.connector=new" in said(
        capsys, "fit", "tiny/stage3", wrong, "--check", code=2
    )
    assert not (root / "runs").exists() or not list((root / "runs").glob("stage*"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.tasks={text_to_imag: 1}", "did you mean 'text_to_image'?"),
        ("queries.num_queries=0", "expected 1 or more\n    fix: for example 64"),
        ("data.world={name: jsonl, path: gone.jsonl}", "data.world.path = 'gone.jsonl'"),
        ("stage2.queries.num_queries=5", "stage2.from_parent.queries=new"),
        ("stage2.connector=enc_proj", "stage2.connector.name=mlp"),
    ],
)
def test_a_plan_finds_what_needs_no_library(
    override: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in said(capsys, "fit", "tiny/stage3", override, "--plan", code=2)


def test_a_plan_lets_a_handed_over_part_differ_in_what_is_no_size(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said(capsys, "fit", "tiny/stage3", "stage2.queries.init_std=0.1", "--plan")


def test_a_misspelt_verb_gets_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["swep", "sweeps/smoke"])
    assert ended.value.code == 2
    assert "did you mean 'sweep'" in capsys.readouterr().err


def test_config_shows_values_with_their_origin(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "config", "tiny/stage3", "seed=4")
    assert "# command line" in text
    assert "# experiments/tiny/base.yaml:3" not in text  # seed was overridden
    assert "experiments/tiny/stage3.yaml" in text
    text = said(capsys, "config", "tiny/stage3", "--explain", "queries.num_queries")
    assert "now: 2" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "tiny/stagex"], "did you mean 'tiny/stage"),
        (["fit", "tiny/stage1", "connector=mlpp"], "did you mean 'mlp'"),
        (["fit", "tiny/stage1", "head.num_layrs=1"], "did you mean 'num_layers'"),
        (["fit", "tiny/stage1", "head.num_layers=two"], "expected int"),
        (["fit", "tiny/stage1", "head.latent_channels=4"], "take it out"),
        (["fit", "tiny/stage1", "vlm.path=nowhere/at/all"], "nowhere/at/all"),
        (["fit", "tiny/stage1", "stage7.seed=1"], "a stage of this chain"),
        (["fit", "tiny/stage1", "parent=runs/gone"], "an exported folder that exists"),
        (["fit", "tiny/stage1", "queries.num_queries=0"], "num_queries"),
        (["fit", "tiny/stage1", "data.tasks={fly: 1}"], "fly"),
        (["sweep", "sweeps/nothing"], "a YAML file"),
        (["report", "nothing"], "a YAML file"),
        (["generate", "nothing", "--prompt", "x"], "a run folder"),
        (["runs", "show"], "qk runs show RUN"),
        (["runs", "show", "nothing"], "a run folder"),
        (["data", "show", "nowhere"], "a world"),
        (["data", "show", "avatars", "size=abc"], "expected int"),
        (["data", "show", "jsonl"], "expected a value"),
        (["fit", "tiny/stage1", "trainer.accelerator=abacus"], "an accelerator of this machine"),
        (["fit", "tiny/stage1", "optimizer.lr=nan"], "0 or more"),
        (["fit", "tiny/stage1", "ema.decay=2"], "0 to"),
        (["fit", "tiny/stage1", "optimizer.lr_scale.foo=2"], "a part of the system"),
        (["fit", "tiny/stage1", "name=a/b"], "it names a folder"),
        (["fit", "tiny/stage1", "batch_size=8"], "trainer.global_batch_size"),
        (["fit", "tiny/stage1", "system.prompt_dropout=7"], "a share from 0 to 1"),
        (["data", "show", "missing.jsonl"], "missing.jsonl"),
        (["config", "tiny/stage1", "--explain", "seeed"], "did you mean 'seed'"),
        (["fit", "tiny/stage1", "--check", "data.tasks={fly: 1}"], "fly"),
    ],
)
def test_a_mistake_ends_with_2_and_a_fix_and_writes_nothing(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    text = said(capsys, *words, code=2)
    assert expected in text
    assert not list((root / "runs").glob("*/checkpoints"))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([GOOD, "{not json"], "mine.jsonl:2"),
        ([GOOD, '{"prompt": "no target"}'], "target"),
        ([json.dumps({"prompt": "x", "target": "gone.png"})], "gone.png"),
        ([json.dumps({"prompt": "x", "target": "broken.png"})], "broken.png"),
        ([json.dumps({"prompt": "x", "target": "0.png", "task": "fly"})], "fly"),
        (["[1, 2]"], "mine.jsonl:1"),
    ],
)
def test_a_wrong_line_of_data_is_named(
    lines: list[str], expected: str, capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    file = write_jsonl(root, *lines)
    assert expected in said(capsys, "data", "show", str(file), code=2)


def test_ones_own_pictures_train_and_draw(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    lines = [json.dumps({"prompt": f"p{n}", "target": f"{n % 3}.png"}) for n in range(8)]
    lines += [
        json.dumps(
            {
                "prompt": "darker",
                "target": "0.png",
                "images": [{"path": "1.png", "role": "source"}],
                "task": "editing",
            }
        )
        for _ in range(2)
    ]
    file = write_jsonl(root, *lines)
    assert "sheet:" in said(capsys, "data", "show", str(file))
    world = f"data.world={{name: jsonl, path: {file}}}"
    tasks = "data.tasks={text_to_image: 1, editing: 1, reconstruction: 0}"
    said(capsys, "fit", "tiny/stage1", world, tasks, "system.low_level=true", "name=own")
    text = said(capsys, "runs")
    assert "own-" in text
    assert "done" in text
    assert "data.tasks={text_to_image: 1, editing: 1, reconstruction: 0}; system.low" in text
    assert (root / "runs" / "mine_sheet.png").is_file()
    out = root / "out"
    said(capsys, "generate", "own", "--prompt", "", "--num-images", "2", "--output", str(out))
    said(capsys, "generate", "own", "--source", str(root / "1.png"), "--output", str(out))
    assert len(list(out.glob("*.png"))) == 3  # another call does not write over the first
    bad = said(capsys, "generate", "own", "--source", str(root / "broken.png"), code=2)
    assert "a picture that can be read" in bad


@pytest.mark.slow
def test_a_run_with_children_is_not_removed(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "fit", "tiny/stage2", "all.max_steps=1")
    assert "remove stage2-" in said(capsys, "runs", "rm", "stage1", code=2)
    said(capsys, "runs", "rm", "stage2")
    said(capsys, "runs", "rm", "stage1")
    assert "no runs" in said(capsys, "runs")


OUTSIDE = '''
"""A connector outside the package: the module is all there is."""

from torch import nn

from qk_lightning.parts.base import Part


class Scaled(Part):
    """One linear layer, scaled.

    Args:
        gain: factor on the output.
    """

    wired = ("input_size", "output_size")

    def __init__(self, *, input_size: int, output_size: int, gain: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.linear = nn.Linear(input_size, output_size)

    def forward(self, states, mask):
        return self.hparams.gain * self.linear(states)
'''


def test_a_connector_from_outside_is_a_module_and_a_yaml(
    capsys: pytest.CaptureFixture[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "my_outside_bridges.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(root))
    folder = root / "experiments" / "connector"
    folder.mkdir()
    (folder / "scaled.yaml").write_text(
        "connector: {name: 'my_outside_bridges:Scaled', gain: 2.0}\n"
    )
    said(capsys, "fit", "tiny/stage1", "connector=scaled", "max_steps=2")
    text = said(capsys, "config", "tiny/stage1", "connector=scaled", "--explain", "connector.gain")
    assert "factor on the output" in text


BROKEN = """
from torch import nn

from qk_lightning.parts.base import Part


class Silent(Part):
    wired = ("input_size", "output_size")

    def __init__(self, *, input_size: int, output_size: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.linear = nn.Linear(input_size, output_size - 1)


class Narrow(Silent):
    wired = ("input_size", "output_size")

    def forward(self, states, mask):
        return self.linear(states)


class Maskless(Narrow):
    wired = ("input_size", "output_size")

    def forward(self, states):
        return self.linear(states)


class Crooked(Narrow):
    wired = ("input_size", "output_size")

    def forward(self, states, mask):
        return self.linear(states[..., :3])


class Counting(Narrow):
    wired = ("input_size", "output_size")

    def forward(self, states, mask):
        return states[mask][: int(mask.sum())]
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Narrow", "Narrow returns [2, 5, 31]"),
        ("Maskless", "Maskless has forward(states)"),
        ("Crooked", "Crooked raises RuntimeError"),
        ("Silent", "Silent has none"),
    ],
)
def test_a_connector_that_breaks_the_contract_is_refused_before_it_trains(
    name: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (root / "my_broken_bridges.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.delitem(sys.modules, "my_broken_bridges", raising=False)
    words = ("fit", "tiny/stage1", f"connector=my_broken_bridges:{name}")
    text = said(capsys, *words, code=2)
    assert f"connector = 'my_broken_bridges:{name}'" in text
    assert expected in text
    assert "def forward(self, states, mask)" in text


def test_a_connector_that_needs_numbers_passes_the_trial(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from qk_lightning.assembly.trial import connector_problems
    from qk_lightning.parts.connectors.enc_proj import EncProj

    (root / "my_counting_bridges.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(root))
    from my_counting_bridges import Counting

    with torch.device("meta"):
        for connector in (Counting, EncProj):
            parts = {
                "vlm": SimpleNamespace(hidden_size=8, num_layers=1),
                "head": SimpleNamespace(condition_size=4),
                "connector": connector(input_size=8, output_size=4),
            }
            assert connector_problems(parts, "any") == []


def test_one_damaged_file_spoils_nothing_else(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    said(capsys, "fit", "tiny/stage1", "max_steps=1")
    (run,) = (root / "runs").glob("stage1-*")
    (run / "status.json").write_text('{"state": "do')
    assert "stage1-" in said(capsys, "runs")
    assert "stage2" in said(capsys, "fit", "tiny/stage2", "stage1.max_steps=1", "--plan")


def test_a_run_that_diverges_fails(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    words = ["fit", "tiny/stage1", "optimizer.lr=1e30", "optimizer.gradient_clip=null"]
    words += ["max_steps=6", "optimizer.warmup_steps=0"]
    assert "lower optimizer.lr" in said(capsys, *words, code=1)
    assert "failed" in said(capsys, "runs")


def test_evaluate_exports_prompts_and_says_what_it_wants(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    small = ["avatars.num_identities=4", "avatars.num_val=4", "--limit", "2"]
    text = said(capsys, "evaluate", "prompts", "avatars", *small, "--output", str(root / "theirs"))
    assert "avatars: 8 items, sha256" in text
    folder = root / "theirs" / "avatars"
    lines = (folder / "prompts.jsonl").read_text().splitlines()
    assert len(lines) == len(list((folder / "targets").iterdir())) == 8
    for words, expected in (
        (["stage1"], "qk evaluate RUN SUITE"),
        (["prompts", "avatar"], "did you mean 'avatars'"),
        (["prompts", "avatars", "people.size=3"], "write <world>.<option>=value"),
        (["prompts", "avatars", "avatars.num_vals=3"], "did you mean 'num_val'"),
        (["--images", str(root / "nowhere"), "avatars", *small], "expected a folder"),
        (["--images", str(folder), "avatars", "--num-samples", "0"], "expected 1 or more"),
    ):
        assert expected in said(capsys, "evaluate", *words, code=2)
