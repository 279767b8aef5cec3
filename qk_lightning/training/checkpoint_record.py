"""What a checkpoint says of itself, and whether a file is whole and of this run's base.

Beside Lightning's state a checkpoint holds under `qk_lightning`: the run, and the entries of
weights.json that it started from with their fingerprints, so that frozen weights, which are not
in it, are known. torch.load does not check a file's sums; its zip format has them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from qk_lightning.assembly.weights import Entry
from qk_lightning.config.errors import Problem
from qk_lightning.config.paths import is_local
from qk_lightning.config.resume import step_in_name
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training.guard import not_finite
from qk_lightning.training.ranks import Ranks

KEY = "qk_lightning"
FORMAT = 1


class DamagedCheckpointError(ValueError):
    """A checkpoint that cannot be used: cut short, changed, or under a wrong name."""


class CheckpointRecord(Callback):
    """Add the record to every checkpoint, and keep weights that are not finite out of them.

    Args:
        run: the run's folder.
        entries: where the parts' weights come from.
        ranks: the run's processes.
    """

    def __init__(self, run: RunFolder, entries: Sequence[Entry], ranks: Ranks) -> None:
        self.run = run
        self.entries = entries
        self.ranks = ranks

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the record.

        Raises:
            FloatingPointError: a weight is not finite; the checkpoint before this one stays.
        """
        names = [name for one in self.ranks.everyone(not_finite(pl_module, False)) for name in one]
        if names:
            raise FloatingPointError(
                f"weights are not finite after step {trainer.global_step} ({names[0]}, "
                f"{len(set(names))} in all), so no checkpoint is written and the one before "
                "stays; fix: lower optimizer.lr, which is a run of its own"
            )
        checkpoint[KEY] = {
            "format": FORMAT,
            "run": self.run.name,
            "entries": [asdict(entry) for entry in self.entries],
            "revisions": revisions_of(self.entries),
        }


def read_whole(file: Path) -> dict[str, Any]:
    """Read a checkpoint after its sums were checked; tensors stay on the disk until used.

    Args:
        file: as `AsideCheckpointIO` wrote it.

    Returns:
        Its content.

    Raises:
        DamagedCheckpointError: it is cut short or changed, or its name tells another step.
        OSError: the disk does not give it; whether it is whole is not known.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if (broken := archive.testzip()) is not None:
                raise DamagedCheckpointError(
                    f"{broken} in it was changed: its check sum is another"
                )
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, MemoryError, DamagedCheckpointError) as error:
        # A zip that points beyond its end seeks where no file is.
        if isinstance(error, OSError) and error.errno == 22:
            raise DamagedCheckpointError(str(error)) from error
        raise
    except Exception as error:  # whatever a damaged file makes zipfile and torch raise
        raise DamagedCheckpointError(
            (str(error) or type(error).__name__).partition("\n")[0][:200]
        ) from error
    step, named = content.get("global_step"), step_in_name(file)
    if named is not None and step != named:
        raise DamagedCheckpointError(f"it holds step {step}, and its name says {named}")
    return dict(content)


def revisions_of(entries: Sequence[Entry]) -> dict[str, str]:
    """Tell which revision of a hub's model is at hand, where it is known.

    Args:
        entries: where the parts' weights come from; a hub id has no fingerprint.

    Returns:
        Commit by part.
    """
    found = {}
    for entry in entries:
        is_hub = entry.action == "base" and not entry.sha256 and not is_local(entry.file)
        if is_hub and (commit := _cached_commit(entry.file)):
            found[entry.part] = commit
    return found


def _cached_commit(hub_id: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:  # no id of a hub: its own part says so
        return ""
    return Path(file).parent.name if isinstance(file, str) else ""


def other_bases(
    record: Mapping[str, Any], entries: Sequence[Entry], trainable: Mapping[str, Any]
) -> list[str]:
    """Compare the frozen weights that a checkpoint was trained on with those at hand.

    Args:
        record: of the checkpoint; {} of one that older code wrote says nothing.
        entries: those of the run as it starts now.
        trainable: how parts are trained; of one that trains in full the checkpoint has all.

    Returns:
        A sentence a part, with both fingerprints.
    """
    if not record:
        return []
    then = _prints([Entry(**item) for item in record["entries"]], record.get("revisions", {}))
    now = _prints(entries, revisions_of(entries))
    return [
        f"{part} was {then.get(part, 'not there')} and is {print_}"
        for part, print_ in now.items()
        if trainable.get(part) != "full" and print_ != then.get(part) and _is_known(then.get(part))
    ]


def _is_known(text: str | None) -> bool:
    return text is None or "unknown" not in text


def _prints(entries: Sequence[Entry], revisions: Mapping[str, str]) -> dict[str, str]:
    """Write each part's frozen weights as text: what was loaded, and the fingerprints."""
    texts: dict[str, list[str]] = {}
    for entry in entries:
        if entry.action == "init":
            text = f"random numbers from seed {entry.seed}"
        elif entry.sha256:
            text = f"{entry.action} {entry.sha256}"
        else:
            text = f"hub {entry.file} at {revisions.get(entry.part, 'an unknown revision')}"
        texts.setdefault(entry.part, []).append(text)
    return {part: " + ".join(of_part) for part, of_part in texts.items()}


def unlike_what_trains(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    """See that a checkpoint of any run holds what a configuration trains.

    Args:
        file: the checkpoint.
        shapes: what trains, shape by name (`<part>.<parameter>`).

    Returns:
        The problem, if there is one.
    """
    key, expected = "resume", "a checkpoint of a run that trains the same"
    fix = "take its trainable and parts as they were there, or begin without it: resume=false"
    try:
        state = read_whole(file)["state_dict"]
    except (DamagedCheckpointError, KeyError) as error:
        return [Problem(key, str(file), f"a whole checkpoint ({error})", "name another one")]
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
    if not wrong:
        return []
    name = wrong[0]
    said = f"{name} is {found.get(name, 'not in it')}, and {shapes.get(name, 'not trained')} here"
    more = f"; {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
    return [Problem(key, str(file), f"{expected} ({said}{more})", fix)]
