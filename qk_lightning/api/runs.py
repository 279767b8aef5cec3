"""A run folder as a notebook uses it: scores, history, pictures, and drawing with it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.config.arguments import check_overrides, check_text
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.exported_folder import ExportedFolder
from qk_lightning.config.find_runs import children_of, find_run
from qk_lightning.config.locks import LockHeld
from qk_lightning.config.paths import list_presets
from qk_lightning.config.run_folder import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

    from qk_lightning.pipeline import QueryKontextPipeline

SHOWN = ("val/", "eval/")


class Run(RunFolder):
    """A run's folder with what one looks at in a notebook; it may not have finished.

    Args:
        path: `<root>/runs/<name>-<identity>`.
    """

    @property
    def scores(self) -> dict[str, float]:
        """The last value of each `val/` and `eval/` metric, by name."""
        found = self.last_metrics()
        return {name: found[name] for name in sorted(found) if name.startswith(SHOWN)}

    def history(self, metric: str | None = None) -> list[dict[str, Any]]:
        """Return what was measured while it trained.

        Args:
            metric: one metric, such as `train/loss`; None for all.

        Returns:
            Rows of step, metric and value: what `pandas.DataFrame` takes.
        """
        return [row for row in self.metrics() if metric in (None, row["metric"])]

    def pictures(self) -> dict[str, Image]:
        """Return the pictures that were kept at the end, by item; inputs and targets among them."""
        from PIL import Image

        found = {}
        for file in sorted((self.samples / "final").glob("*.png")):
            with Image.open(file) as picture:
                found[file.stem] = picture.convert("RGB")
        return found

    def grid(self) -> Image | None:
        """Return one picture of prompts, inputs and what was drawn; None before there is any."""
        from qk_lightning.api.pictures import sample_grid

        return sample_grid({self.name: self})

    def pipeline(self, device: str = "cpu") -> QueryKontextPipeline:
        """Load the run's parts, for drawing many times.

        Args:
            device: where to draw.

        Raises:
            ConfigError: it has not finished, or it does not draw.
        """
        from qk_lightning.pipeline import QueryKontextPipeline

        return QueryKontextPipeline.from_run(self, device)

    def __repr__(self) -> str:
        """Name, state and scores, a line each."""
        lines = [f"{self.name}: {self.state}, step {self.status.get('step', 0)}"]
        return "\n".join(
            [*lines, *(f"  {name:<40}{value:>12.5g}" for name, value in self.scores.items())]
        )

    def _repr_html_(self) -> str:
        """Name, state and scores as a table."""
        cells = "".join(
            f"<tr><td>{escape(name)}</td><td>{value:.5g}</td></tr>"
            for name, value in self.scores.items()
        )
        step = self.status.get("step", 0)
        return f"<b>{escape(self.name)}</b>: {self.state}, step {step}<table>{cells}</table>"


class ExportedRun(ExportedFolder, Run):
    """An exported folder as a notebook uses it: it draws and is scored; its history is not kept."""


def load_run(run: str | Path | RunFolder, overrides: Sequence[str] = ()) -> Run:
    """Find a run by its name, or by the preset that it was trained from.

    Args:
        run: a run's folder, name, or the beginning of either; an exported folder; or a preset
            that was trained.
        overrides: what the preset was trained with; for presets only.

    Returns:
        The run.

    Raises:
        ConfigError: there is no such run, or more than one.
    """
    if isinstance(run, ExportedFolder):
        return ExportedRun(run.path)
    if isinstance(run, RunFolder):
        return Run(run.path)
    run = str(run) if isinstance(run, Path) else run
    check_text("run", run, "stage3-1a2b3c4d5e")
    overrides = check_overrides(overrides)
    if run not in list_presets():
        if overrides:
            fix = "name the run alone, or the preset with its overrides"
            raise ConfigError(Problem("overrides", list(overrides), f"none for {run!r}", fix))
        found = find_run(run)
        kind = ExportedRun if isinstance(found, ExportedFolder) else Run
        return kind(found.path)
    folder = plan_chain(run, overrides)[-1].folder
    if not folder.has_config:
        words = " ".join(["qk fit", run, *overrides])
        raise ConfigError(Problem("run", run, "a preset that was trained", words))
    return Run(folder.path)


def remove_run(run: str | RunFolder) -> None:
    """Delete a run that no other needs.

    Args:
        run: the run.

    Raises:
        ConfigError: another run needs it, or a process uses it.
    """
    folder = load_run(run)
    if children := children_of(folder):
        names = ", ".join(child.name for child in children)
        fix = f"remove {names} first"
        raise ConfigError(Problem("run", folder.name, "a run that no other needs", fix))
    try:
        with folder.lock(wait=False):
            folder.remove()
    except LockHeld as error:
        expected = "a run that is not in use"
        raise ConfigError(Problem("run", folder.name, expected, str(error))) from error


def export_part(run: str | RunFolder, family: str, folder: str | Path) -> Path:
    """Write one part of a finished run, as a folder that a preset's `path:` reads.

    Args:
        run: the run.
        family: the part, such as `connector`.
        folder: where to write; it must not exist.

    Returns:
        The folder.

    Raises:
        ConfigError: the run has no such part, or the folder exists.
    """
    from qk_lightning.assembly import export

    export.export_part(load_run(run), family, Path(folder))
    return Path(folder)
