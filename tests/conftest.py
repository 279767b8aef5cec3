"""Fixtures: a root of its own for every test, and a small chain of stages with random weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # two threads on two busy cores wait for each other

TINY_BASE = """
seed: 0
data:
  world: {name: avatars, num_identities: 12, num_val: 4}
  groups_per_step: 2
vlm: {name: qwen2_5_vl, path: VLM}
autoencoder: {name: kl, block_out_channels: [8, 8, 8, 8], latent_channels: 4}
queries: {name: learnable, num_queries: 2}
connector: {name: mlp}
objective: {name: flow_matching}
head:
  {name: flux, num_layers: 1, num_single_layers: 1, num_attention_heads: 1, condition_size: 32}
ema: {decay: 0.9}
trainer:
  {max_steps: 4, global_batch_size: 4, accelerator: cpu, checkpoint_every: 2, log_every: 1}
sampling: {num_inference_steps: 2}
validation: {num_samples: 2, num_images: 2, num_grid: 1, batch_size: 2}
tracking: {name: none}
"""
TINY_STAGES = {
    "stage1": """
defaults: [tiny/base]
system: {name: query_kontext}
data: {tasks: {text_to_image: 1, reconstruction: 1}}
trainable: {vlm: {lora: {rank: 2}}, queries: full, connector: full, head: full}
""",
    "stage2": """
defaults: [tiny/base]
system: {name: query_kontext}
head: {name: flux, num_layers: 1, num_single_layers: 2}
data: {tasks: {text_to_image: 1, reconstruction: 1}}
parent: tiny/stage1
from_parent: {vlm: merge, queries: load, connector: load, head: new, autoencoder: load}
trainable: {queries: full, connector: full, head: full}
""",
    "stage3": """
defaults: [tiny/base]
system: {name: query_kontext, low_level: true}
head: {name: flux, num_layers: 1, num_single_layers: 2}
data: {tasks: {text_to_image: 1, editing: 1, customised: 1, multi_subject: 1}}
parent: tiny/stage2
from_parent: {vlm: load, queries: load, connector: load, head: load, autoencoder: load}
trainable: {queries: full, connector: full, head: {lora: {rank: 2}}}
""",
}


@pytest.fixture(scope="module", autouse=True)
def module_root(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path | None]:
    """One project root for a module marked `shared_root`: its worlds are drawn once."""
    if request.node.get_closest_marker("shared_root") is None:
        yield None
        return
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("root")
        patch.setenv("QK_ROOT", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def root(module_root: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root that vanishes with the test, or with the module if that shares one."""
    folder = module_root or tmp_path
    monkeypatch.setenv("QK_ROOT", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Qwen2.5-VL of width 32, and its tokenizer."""
    from qk_lightning.parts.vlms.small import make_small_vlm

    texts = ["a smiling person with red hair on a blue background", "make the shirt green"]
    sizes = {"hidden_size": 32, "num_layers": 1, "vocab_size": 300}
    folder = tmp_path_factory.mktemp("vlm") / "tiny"
    return make_small_vlm(folder, texts, vision_hidden=32, vision_layers=1, **sizes)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Python's own answers: a shell's background jobs and nohup start with signals ignored."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tiny_presets(root: Path, tiny_vlm: Path) -> Path:
    """Write three stages of a small chain to `<root>/experiments/tiny/`."""
    return write_presets(root, tiny_vlm)


@pytest.fixture(scope="module")
def shared_presets(module_root: Path, tiny_vlm: Path) -> Path:
    """Write them once for a module marked `shared_root`."""
    return write_presets(module_root, tiny_vlm)


def write_presets(root: Path, vlm: Path) -> Path:
    """Write the presets of the small chain, and return their folder."""
    folder = root / "experiments" / "tiny"
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text(TINY_BASE.replace("VLM", str(vlm)))
    for stage, text in TINY_STAGES.items():
        (folder / f"{stage}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def trained_root(tiny_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root where `qk fit tiny/stage2 all.max_steps=1` was run. Copy its `runs/`; never write."""
    from qk_lightning.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    write_presets(folder, tiny_vlm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QK_ROOT", str(folder))
        assert main(["fit", "tiny/stage2", "all.max_steps=1"]) == 0
    return folder
