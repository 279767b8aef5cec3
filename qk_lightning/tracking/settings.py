"""What a run trains with, and how that changed when it went on: `settings.json` of its folder.

Devices, micro-batches and the like are no part of a run's identity, so a run may go on with
others. config.yaml has the last ones; here are all. Needs neither torch nor MLflow.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.atomic import write_json
from qk_lightning.config.run_folder import RunFolder

SETTINGS = "settings.json"
MAX_CHARACTERS = 5000  # of a tag
NUM_RANKS = "num_ranks"  # no option: torchrun and SLURM decide it


def note_settings(run: RunFolder, cfg: DictConfig, num_ranks: int, step: int) -> list[str]:
    """Note what a run trains with from now on.

    Args:
        run: the run's folder.
        cfg: its resolved configuration.
        num_ranks: processes that train it.
        step: the optimiser step that it goes on from; 0 at its start.

    Returns:
        What is other than before, a line each.
    """
    now = {**flat_values(cfg), NUM_RANKS: num_ranks}
    before = _before(run)
    # An option that the kit did not have then was not changed by anybody.
    changed = {
        key: [before[key], value]
        for key, value in now.items()
        if key in before and before[key] != value
    }
    changes = settings_changes(run)
    if changed:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        changes.append({"step": step, "when": when, "changed": changed})
    write_json(run.path / SETTINGS, {"settings": now, "changes": changes})
    return [_line(key, pair, step) for key, pair in changed.items()]


def settings_changes(run: RunFolder) -> list[dict[str, Any]]:
    """Return how a run's settings changed, first change first.

    Args:
        run: the run's folder.

    Returns:
        Entries of `step`, `when` and `changed` (before and after by dotted key).
    """
    changes = run.read_json(SETTINGS).get("changes")
    return [item for item in changes if _is_change(item)] if isinstance(changes, list) else []


def describe_settings(run: RunFolder) -> list[str]:
    """Say how a run's settings changed, a line a setting and time.

    Args:
        run: the run's folder.
    """
    return [
        f"{_line(key, pair, item['step'])} ({item['when']})"
        for item in settings_changes(run)
        for key, pair in item["changed"].items()
    ]


def settings_tags(run: RunFolder) -> dict[str, str]:
    """Return a tracker's tags for the settings that changed, `qk.changed.<key>`.

    Args:
        run: the run's folder.
    """
    tags: dict[str, str] = {}
    for item in settings_changes(run):
        for key, (before, after) in item["changed"].items():
            text = f"{before} -> {after} at step {item['step']}"
            name = f"qk.changed.{key}"
            tags[name] = (f"{tags[name]}; {text}" if name in tags else text)[:MAX_CHARACTERS]
    return tags


def first_values(run: RunFolder, values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as it was when the run was begun.

    Args:
        run: the run's folder.
        values: the last configuration, by dotted key.
    """
    found = dict(values)
    for item in reversed(settings_changes(run)):
        found.update({key: pair[0] for key, pair in item["changed"].items() if key in found})
    return found


def flat_values(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration's values by dotted key.

    Args:
        cfg: the resolved configuration.
    """
    flat: dict[str, Any] = {}

    def walk(prefix: str, values: dict[str, Any]) -> None:
        """Gather the leaves below a prefix."""
        for key, value in values.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            else:
                flat[f"{prefix}{key}"] = value

    walk("", OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return flat


def _before(run: RunFolder) -> dict[str, Any]:
    settings = run.read_json(SETTINGS).get("settings")
    return settings if isinstance(settings, dict) else {}


def _is_change(item: Any) -> bool:
    changed = item.get("changed") if isinstance(item, dict) else None
    return (
        isinstance(changed, dict)
        and {"step", "when"} <= item.keys()
        and all(isinstance(pair, list) and len(pair) == 2 for pair in changed.values())
    )


def _line(key: str, pair: list[Any], step: int) -> str:
    return f"{key}: {pair[0]} -> {pair[1]} from step {step} on"
