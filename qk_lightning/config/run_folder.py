"""The run folder: the truth about one run. Trackers and reports are views of it.

runs/<name>-<identity>/
config.yaml  overrides.json  status.json  metrics.csv  parameters.json  provenance.json
sources.json  weights.json  weights/  checkpoints/  samples/  log.txt  error.txt (after a failure)
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from qk_lightning.config.atomic import write_json, write_text
from qk_lightning.config.disk_space import room_for
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.locks import FolderLock
from qk_lightning.config.removal import check_removable
from qk_lightning.config.run_files import well_formed

log = logging.getLogger("qk_lightning")
OVERRIDES_FILE = "overrides.json"
METRICS_HEADER = ["step", "metric", "value"]


class RunFolder:
    """One run's folder; it may not exist yet.

    Args:
        path: `<root>/runs/<name>-<identity>`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        """The folder's name, `<name>-<identity>`."""
        return self.path.name

    @property
    def identity(self) -> str:
        """The hash at the end of the folder's name."""
        return self.path.name.rpartition("-")[2]

    @property
    def has_config(self) -> bool:
        """Whether the folder was ever written."""
        return (self.path / "config.yaml").is_file()

    @property
    def config(self) -> DictConfig:
        """The resolved configuration; a ConfigError where the file is damaged."""
        fix = f"bring the file back, or remove the folder: qk runs rm {self.name}"
        return read_config(self.path / "config.yaml", fix)

    @property
    def overrides(self) -> list[str]:
        """How the run was made different from its preset, as typed; [] where not recorded."""
        texts = self.read_json(OVERRIDES_FILE).get("overrides")
        return [str(text) for text in texts] if isinstance(texts, list) else []

    @property
    def status(self) -> dict[str, Any]:
        """The state of the run, {} before its start."""
        return self.read_json("status.json")

    @property
    def state(self) -> str:
        """The state for people: a run that was killed does not say so itself."""
        state = str(self.status.get("state", "?"))
        is_dead = state == "running" and not self.lock().is_held
        return "interrupted" if is_dead else state

    @property
    def is_done(self) -> bool:
        """Whether the run has ended well."""
        return self.status.get("state") == "done"

    @property
    def checkpoints(self) -> Path:
        """The folder of training states."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint_step(self) -> int:
        """The step of the newest checkpoint, 0 where there is none."""
        files = self.checkpoint_files()
        return int(files[0].stem.partition("=")[2]) if files else 0

    def checkpoint_files(self) -> list[Path]:
        """Return the checkpoints, `step=<n>.ckpt`, newest first."""
        files = self.checkpoints.glob("step=*.ckpt")
        return sorted(files, key=lambda file: -int(file.stem.partition("=")[2]))

    @property
    def weights(self) -> Path:
        """The folder of what the run trained, as safetensors."""
        return self.path / "weights"

    @property
    def samples(self) -> Path:
        """The folder of pictures."""
        return self.path / "samples"

    @property
    def weights_json(self) -> Path:
        """The ordered list of what makes the run loadable."""
        return self.path / "weights.json"

    @property
    def sources_json(self) -> Path:
        """Digests of the sources that the run used."""
        return self.path / "sources.json"

    @property
    def provenance_json(self) -> Path:
        """Versions, machine and commit."""
        return self.path / "provenance.json"

    def create(self, cfg: DictConfig) -> None:
        """Write the configuration of a run that is not done.

        What is no part of the identity, such as the micro-batch, may differ from an earlier try.

        Args:
            cfg: the resolved configuration.
        """
        if self.is_done:
            return
        is_new = not self.has_config
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(cfg))
        if is_new:
            self.write_status(state="planned", step=0, max_steps=cfg.trainer.max_steps)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the folder, {} where there is none.

        Args:
            name: the file.
        """
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            whole = dict(json.loads(file.read_text()))
        except (ValueError, TypeError):  # not written by us: ours are whole or absent
            log.warning("%s is damaged and counts as missing", file)
            return {}
        known = well_formed(name, whole)
        if known != whole:
            log.warning("%s is damaged in parts, which count as missing", file)
        return known

    def write_status(self, **changes: Any) -> None:
        """Change entries of the status.

        Args:
            **changes: new values, such as `state="running"`.
        """
        stamp = {"host": socket.gethostname(), "pid": os.getpid(), "updated": time.time()}
        status = {**self.status, **changes, **stamp}
        write_json(self.path / "status.json", status, or_in_place=True)

    def lock(self, wait: bool = True) -> FolderLock:
        """Lock the folder against a second process.

        Args:
            wait: wait for the holder, or raise `LockHeld`.
        """
        return FolderLock(self.path, wait=wait)

    def append_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Add values to metrics.csv.

        Args:
            step: the optimiser step.
            metrics: value by metric.
        """
        file = self.path / "metrics.csv"
        is_new = not file.is_file()
        self.path.mkdir(parents=True, exist_ok=True)
        with room_for(file), file.open("a", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            if is_new:
                writer.writerow(METRICS_HEADER)
            writer.writerows([step, name, repr(float(value))] for name, value in metrics.items())

    def metrics(self) -> list[dict[str, Any]]:
        """Read metrics.csv; a last line that a kill cut short, or one that is garbage, is left out.

        Returns:
            Rows of step (int), metric (str) and value (float); what was measured twice at one
            step, as by a run that was stopped while it was scored, has its later value.
        """
        file = self.path / "metrics.csv"
        if not file.is_file():
            return []
        text, damaged = file.read_text(errors="replace"), 0
        found: dict[tuple[int, str], float] = {}
        for line in text[: text.rfind("\n") + 1].splitlines():
            if line == ",".join(METRICS_HEADER):
                continue
            try:
                step, metric, value = line.split(",")
                found[int(step), metric] = float(value)
            except ValueError:
                damaged += 1
        if damaged:
            log.warning("%s: %d lines cannot be read and are left out", file, damaged)
        return [
            {"step": step, "metric": metric, "value": value}
            for (step, metric), value in found.items()
        ]

    def keep_metrics_until(self, step: int) -> None:
        """Drop what was measured after `step`: a resumed run measures it again.

        Args:
            step: the step of the checkpoint that is resumed, 0 where there is none.
        """
        if not (self.path / "metrics.csv").is_file():
            return
        rows = [row for row in self.metrics() if row["step"] <= step]
        lines = [",".join(METRICS_HEADER)]
        lines += [f"{row['step']},{row['metric']},{row['value']!r}" for row in rows]
        write_text(self.path / "metrics.csv", "\n".join(lines) + "\n")

    def last_metrics(self) -> dict[str, float]:
        """Return the last value of each metric."""
        return {row["metric"]: row["value"] for row in self.metrics()}

    def remove(self) -> None:
        """Delete the folder; it vanishes from the list at once, then its files.

        Raises:
            ConfigError: it is no run folder of this root.
        """
        check_removable(self.path)
        grave = self.path.with_name(f".{self.path.name}.{uuid4().hex[:8]}")
        self.path.rename(grave)
        shutil.rmtree(grave)


def read_config(file: Path, fix: str) -> DictConfig:
    """Read a run's configuration.

    Args:
        file: as it was written when the run began.
        fix: what to do where it is damaged.

    Returns:
        The configuration.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    config: object = None
    reason = "no configuration"
    try:
        config = OmegaConf.load(file)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
    if not isinstance(config, DictConfig) or "trainer" not in config:
        raise ConfigError(Problem(str(file), None, f"what `qk` wrote there ({reason})", fix))
    return config
