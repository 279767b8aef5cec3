"""`resume:` and `trainer.keep_best`: what a run goes on from, and which step is kept. No torch.

What happens at the start, when files are read, is in training/starting.py.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.paths import resolve_path
from qk_lightning.config.run_folder import RunFolder

if TYPE_CHECKING:
    from qk_lightning.config.chain import StagePlan

AUTO, LATEST, ANEW = "auto", "latest", "false"
WORDS = (AUTO, LATEST, ANEW)
# Whether more or less of a validation metric is better, by its first two words.
BETTER = {"val/loss": "min", "val/psnr": "max", "val/accuracy": "max"}
RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


def as_text(value: Any) -> Any:
    """Write YAML's `false` as the word it is here.

    Args:
        value: of `resume`.
    """
    return ANEW if value is False else value


def resume_problems(checked: dict[str, Any]) -> Iterator[Problem]:
    """List what is wrong with `resume`: neither a word nor a checkpoint that is there.

    Args:
        checked: the sections of a configuration, defaults filled in.

    Yields:
        The problem, if there is one.
    """
    value = checked.get("resume")
    if not isinstance(value, str) or value in WORDS:
        return
    expected = "auto, latest, false, or a checkpoint of a run"
    try:
        file = resolve_path(value, "resume")
    except ConfigError:
        near = did_you_mean(value, WORDS)
        fix = (
            near if near.startswith("did") else "name a file: runs/<run>/checkpoints/step=<n>.ckpt"
        )
        yield Problem("resume", value, f"{expected}; there is no such file", fix)
        return
    if file.is_dir():
        folder = file / "checkpoints" if (file / "checkpoints").is_dir() else file
        names = sorted(one.name for one in folder.glob("*step=*.ckpt"))
        fix = f"name one of its files: {', '.join(names)}" if names else "name a file step=<n>.ckpt"
        yield Problem("resume", value, f"{expected}, not a folder", fix)
    elif not zipfile.is_zipfile(file):
        fix = "name another: this one is damaged, or none of ours"
        yield Problem("resume", value, f"{expected}, which this file is not", fix)


def keep_best_problems(checked: dict[str, Any]) -> Iterator[Problem]:
    """List what is wrong with `trainer.keep_best`: a metric that no validation will log.

    Args:
        checked: the sections of a configuration, defaults filled in.

    Yields:
        The problems.
    """
    metric, validation = checked["trainer"].get("keep_best"), checked["validation"]
    if not isinstance(metric, str):
        return
    key = "trainer.keep_best"
    words = metric.split("/")
    if "/".join(words[:2]) not in BETTER:
        expected = "null, or a metric that validation logs"
        yield Problem(key, metric, expected, f"for example val/loss; also: {', '.join(BETTER)}/...")
        return
    tasks = checked["data"].get("tasks") or {}
    if words[:2] == ["val", "loss"] and len(words) > 2 and not tasks.get(words[2]):
        trained = [task for task, weight in tasks.items() if weight]
        fix = f"write val/loss, or val/loss/<task> with one of: {', '.join(trained)}"
        yield Problem(key, metric, "the loss of a task that is trained", fix)
    for name in ("every", "num_samples"):
        if not validation[name]:
            expected = f"null, as validation.{name}=0 measures nothing while it trains"
            yield Problem(key, metric, expected, f"set validation.{name} to 1 or more")


def mode_of(metric: str) -> str:
    """Tell whether less or more of a metric is better.

    Args:
        metric: as `trainer.keep_best` names it.

    Returns:
        `min` or `max`.
    """
    return BETTER["/".join(metric.split("/")[:2])]


def file_of(cfg: DictConfig) -> Path | None:
    """Return the file that `resume` names.

    Args:
        cfg: a resolved configuration.

    Returns:
        The file, None for one of the words.

    Raises:
        ConfigError: it is gone.
    """
    value = as_text(cfg.get("resume", AUTO))
    return None if value is None or value in WORDS else resolve_path(value, "resume")


def is_of(file: Path, identity: str) -> bool:
    """Tell whether a checkpoint lies in the folder of a run, or in what was set aside there.

    Args:
        file: the checkpoint.
        identity: the run's.
    """
    return any(folder.name.rpartition("-")[2] == identity for folder in file.resolve().parents)


def was_restarted() -> bool:
    """Tell whether a scheduler or launcher started this command again.

    Then it goes on from where it was, whatever `resume` said at first: `false` would begin anew
    after every preemption.
    """
    return any(os.environ.get(name, "0").strip() not in ("", "0") for name in RESTARTS)


def latest_problems(plans: Iterable[StagePlan]) -> list[Problem]:
    """List the runs that must go on and have nothing to go on from.

    Args:
        plans: planned runs.

    Returns:
        A problem for each with `resume: latest`, not done, and without a checkpoint.
    """
    return [
        nothing_to_resume(plan.folder)
        for plan in plans
        if plan.cfg.get("resume") == LATEST
        and not plan.folder.is_done
        and not plan.folder.checkpoint_files()
    ]


def nothing_to_resume(run: RunFolder) -> Problem:
    """Say that there is no checkpoint to go on from.

    Args:
        run: the run's folder.
    """
    expected = f"a checkpoint in {run.checkpoints}, and there is none"
    return Problem("resume", LATEST, expected, "resume=auto begins where there is none")


def step_gone_on_from(run: RunFolder, cfg: DictConfig) -> int:
    """Tell the step that a run will go on from, as far as names of files say it.

    Args:
        run: the run's folder, which may not exist yet.
        cfg: the configuration that it will be started with.

    Returns:
        The step, 0 for the beginning.
    """
    value = AUTO if was_restarted() else as_text(cfg.get("resume", AUTO))
    if value == ANEW:
        return 0
    file = file_of(cfg) if value not in WORDS else None
    own = run.last_checkpoint_step
    if file is None or (own and not is_of(file, run.identity)):
        return own
    return step_in_name(file) or 0


def step_in_name(file: Path) -> int | None:
    """Return the step that a checkpoint's name tells, None where it tells none.

    Args:
        file: `step=<n>.ckpt` or `best-step=<n>.ckpt`.
    """
    found = re.fullmatch(r"(?:best-)?step=(\d+)", file.stem)
    return int(found[1]) if found else None


def find_checkpoint(run: RunFolder, text: str) -> Path:
    """Find a checkpoint of a run by what a user typed.

    Args:
        run: the run's folder.
        text: `best`, `last`, a step, `step=<n>`, or a file.

    Returns:
        The file.

    Raises:
        ConfigError: there is no such file; those that are there are named.
    """
    best = sorted(run.checkpoints.glob("best-step=*.ckpt"), key=lambda f: step_in_name(f) or 0)
    files = run.checkpoint_files()
    named = {"best": best[-1:], "last": files[:1]}.get(text)
    if named is None:
        number = text.removeprefix("step=")
        places = [run.checkpoints / f"{kind}step={number}.ckpt" for kind in ("", "best-")]
        named = [file for file in (*places, run.checkpoints / text, Path(text)) if file.is_file()]
    if not named:
        there = [file.name for file in (*best, *files)]
        fix = f"name one of: {', '.join(there)}" if there else "it keeps none"
        if text == "best" and not best:
            fix += "; trainer.keep_best=val/loss keeps the best one"
        raise ConfigError(Problem("--checkpoint", text, f"a checkpoint of {run.name}", fix))
    return named[0]
