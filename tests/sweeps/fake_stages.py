"""Stages that train nothing: chains without presets, and a `run_stage` that leaves a trace.

A chain is codec -> align -> refine. Only `seed` reaches the codec; `width` (the swept option)
reaches align and refine, `sharpness` refine alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from fnmatch import fnmatch
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.paths import runs_root
from qk_lightning.config.run_folder import RunFolder

TARGET = "fake_stages:run_stage"
PRELOAD = "fake_stages"
REACH = {"codec": ["seed"], "align": ["seed", "width"], "refine": ["seed", "width", "sharpness"]}


def plan_chain(preset, overrides=()) -> list[StagePlan]:
    values = {"seed": 0, "width": 1, "sharpness": 0}
    for text in overrides:
        values |= OmegaConf.to_container(OmegaConf.from_dotlist([text]))
    plans: list[StagePlan] = []
    for stage, keys in REACH.items():
        parent = plans[-1] if plans else None
        content = {key: values[key] for key in keys}
        identity = _hash(stage, content, parent.identity if parent else "")
        cfg = _config(stage, content)
        cfg.parent = str(parent.cfg.name) if parent else None
        folder = parent.folder if parent else None
        plans.append(StagePlan(stage, cfg, {}, identity, parent, folder))
    return plans


def _hash(*values) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:10]


def _config(stage: str, content: dict) -> DictConfig:
    return OmegaConf.create(
        {
            "name": f"fake_{stage}",
            "stage": stage,
            "system": {"name": "fake"},
            "trainer": {"max_steps": 4, "global_batch_size": 8},
            "trainable": {"head": "full"},
            "tracking": {"name": "none", "experiment": "fake"},
            "reference_seconds": 10.0,
            **content,
        }
    )


def calls() -> list[str]:
    """Return what was trained: a line `stage width seed` for each call, in order."""
    file = runs_root() / "calls.txt"
    return file.read_text().split("\n")[:-1] if file.is_file() else []


def run_stage(folder, report=None) -> None:
    run = RunFolder(Path(folder))
    cfg = run.config
    name = f"{cfg.stage} {cfg.get('width', '-')} {cfg.seed}"
    with (runs_root() / "calls.txt").open("a") as handle:
        handle.write(name + "\n")
    print("training", name)
    _note_devices(name)
    _misbehave(name)
    run.write_status(state="running", step=0, max_steps=4)
    if report:
        report({"step": 4, "max_steps": 4, "loss": 0.5, "images_per_second": 10.0})
    width = cfg.get("width", 0)
    loss = 1.0 / (1 + width) + 0.01 * cfg.seed - 0.001 * width * cfg.seed
    metrics = {"val/loss": loss, "eval/avatars/accuracy": 0.5}
    if cfg.stage != "codec":
        run.append_metrics(4, metrics)
        _score(run)
        (run.path / "parameters.json").write_text(
            json.dumps({"head": {"total": 1000 * (1 + width), "trainable": 1000}})
        )
        _draw(run.samples / "final", width)
    with (runs_root() / "finished.txt").open("a") as handle:
        handle.write(name + "\n")
    run.write_status(state="done", step=4, seconds=0.1, seconds_per_step=0.025)


def _note_devices(name: str) -> None:
    """Leave the GPUs and cores that a run saw, for those who ask with $FAKE_DEVICES."""
    if os.environ.get("FAKE_DEVICES"):
        gpus, cores = os.environ.get("CUDA_VISIBLE_DEVICES"), sorted(os.sched_getaffinity(0))
        line = json.dumps([name, gpus, cores, time.monotonic()])
        with (runs_root() / "devices.txt").open("a") as handle:
            handle.write(line + "\n")


def _score(run: RunFolder) -> None:
    """Leave the controls of the end-of-run scores."""
    controls = {"shuffled": 0.25, "recon": 0.9}
    file = run.path / "evaluations/final/alignment/summary.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"metrics": {"eval/avatars/accuracy": {"controls": controls}}}))


def _misbehave(name: str) -> None:
    """Do what the test asked for with $FAKE_STAGE="<name, * for any>=<what>;...".

    $QK_FAKE_STAGE reaches other machines too.
    """
    asked = os.environ.get("QK_FAKE_STAGE", os.environ.get("FAKE_STAGE", ""))
    for entry in filter(None, asked.split(";")):
        wanted, _, what = entry.partition("=")
        if fnmatch(name, wanted):
            MISDEEDS[what.partition(" ")[0]](what.partition(" ")[2])


def _raise(text: str) -> None:
    raise ValueError(text or "the latents are not finite")


def _number(_: str) -> None:
    raise ValueError(f"process {os.getpid()} at /tmp/{os.getpid()}/x: loss {time.time():.3f}")


def _hang(_: str) -> None:
    (runs_root() / "hanging.pid").write_text(str(os.getpid()))
    time.sleep(600)


MISDEEDS = {
    "raise": _raise,
    "number": _number,
    "hang": _hang,
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "memory": lambda _: bytearray(1 << 60),
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "stop": lambda _: os.kill(os.getpid(), signal.SIGTERM),
}


def _draw(folder: Path, width: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    items = [
        {"id": "val-0", "task": "text_to_image", "prompt": "a person with red hair"},
        {"id": "val-1", "task": "editing", "prompt": "give the person a hat"},
    ]
    (folder / "prompts.json").write_text(json.dumps(items))
    for item in items:
        Image.new("RGB", (8, 8), (40 * width % 255, 0, 0)).save(folder / f"{item['id']}.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "input0_val-1.png")
