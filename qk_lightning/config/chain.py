"""A chain of stages: composing a preset together with the ancestors that its `parent:` names.

What an override reaches: seed, world and the options of parts that are handed over go to the
whole chain; everything else touches the named stage alone; `stage1.` and `all.` say otherwise.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from qk_lightning.config.arguments import check_overrides, check_preset
from qk_lightning.config.atomic import write_json
from qk_lightning.config.compose import Composed, compose, once
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.exported_folder import ExportedFolder, open_folder
from qk_lightning.config.handover import handover_problems
from qk_lightning.config.layers import full_key, load_layers
from qk_lightning.config.paths import find_preset, list_presets, project_root, runs_root, user_path
from qk_lightning.config.resume import latest_problems
from qk_lightning.config.run_folder import OVERRIDES_FILE, RunFolder

ALL = "all"
# Reach every stage of a chain; `head` joins where it is loaded from the parent.
CHAIN_WIDE = ("seed", "data.world", "vlm", "queries", "connector", "autoencoder")


@dataclass(frozen=True)
class StagePlan:
    """One run of a chain, planned.

    Args:
        stage: its label.
        cfg: its resolved configuration.
        origins: where each value that is not a default came from.
        identity: its identity.
        parent: the plan of the stage before, where the parent is a preset.
        parent_folder: the parent's run folder, of either kind, or an exported folder; None for a
            first stage.
        stretch: steps x batch against those of the run that `reference_seconds` tells of.
        overrides: those that reach it, without their prefixes.
        replaced: the part that the preset has, by the key of one that an override swaps.
    """

    stage: str
    cfg: DictConfig
    origins: dict[str, str]
    identity: str
    parent: StagePlan | None
    parent_folder: RunFolder | None
    stretch: float = 1.0
    overrides: tuple[str, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        """The run's folder, which may not exist yet; names differ, identities decide."""
        found = sorted(runs_root().glob(f"*-{self.identity}/config.yaml"))
        if found:
            return RunFolder(found[0].parent)
        return RunFolder(runs_root() / f"{self.cfg.name}-{self.identity}")

    def write(self) -> RunFolder:
        """Make the run folder with its configuration, its overrides and the name of its parent."""
        folder = self.folder
        if not folder.has_config:
            write_json(folder.path / OVERRIDES_FILE, {"overrides": list(self.overrides)})
        folder.create(self.cfg)
        if self.parent_folder is not None:
            parent = self.parent_folder
            value: dict[str, object] = {"folder": parent.name, "path": str(parent.path)}
            value["identity"] = parent.identity
            if isinstance(parent, ExportedFolder):  # which may be gone when somebody asks
                value["chain"] = parent.chain
            write_json(folder.path / "parent.json", value)
        return folder


def plan_chain(preset: str | Path, overrides: Sequence[str] = ()) -> list[StagePlan]:
    """Plan a preset and its ancestors.

    Args:
        preset: a preset's name or a file.
        overrides: texts such as `seed=1`, `stage1.optimizer.lr=1e-3`, `all.max_steps=20`.

    Returns:
        The plans, first ancestor first.

    Raises:
        ConfigError: with everything that is wrong; among others an override of a stage that the
            chain does not have, a parent that does not exist, and a part that is handed over
            and is another one in the parent.
    """
    check_preset(preset)
    chain = _compose_chain(preset, check_overrides(overrides))
    pairs = itertools.pairwise(composed.cfg for composed in chain)
    if problems := [item for cfg, after in pairs for item in handover_problems(after, cfg)]:
        raise ConfigError(problems)
    plans: list[StagePlan] = []
    for composed in chain:
        parent = plans[-1] if plans else None
        given = composed.cfg.parent
        folder = parent.folder if parent else _find_run(given) if given else None
        parent_identity = folder.identity if folder else None
        identity = composed.identity(parent_identity)
        stage = str(composed.cfg.stage)
        cfg, origins, stretch = composed.cfg, composed.origins, composed.stretch
        own, old = composed.overrides, composed.replaced
        plans.append(StagePlan(stage, cfg, origins, identity, parent, folder, stretch, own, old))
    if problems := latest_problems(plans):
        raise ConfigError(problems)
    return plans


def _compose_chain(preset: str | Path, overrides: list[str]) -> list[Composed]:
    parents = [text for text in overrides if text.partition("=")[0].endswith("parent")]
    links = once(("links", str(preset), *parents), partial(_links, preset, parents))
    stages = [stage for _, stage in links]
    _check_prefixes(overrides, stages, str(preset))
    composed: list[Composed] = []
    for name, stage in links:
        # An override without a prefix is for the stage at hand; what is left for the ancestors
        # are prefixed ones and those of parts that are handed over.
        split = [(_prefix(text, stages), text) for text in overrides]
        own = [
            text.removeprefix(f"{prefix}.") if prefix else text
            for prefix, text in split
            if prefix in ("", ALL, stage)
        ]
        one = compose(name, own)
        composed.insert(0, one)
        overrides = [
            text
            for prefix, text in split
            if prefix not in ("", stage) or (not prefix and _is_handed_over(text, one.cfg))
        ]
    return composed


def _prefix(text: str, stages: list[str]) -> str:
    """Return `all` or the stage that an override is addressed to, "" for neither."""
    head = text.partition("=")[0].split(".")[0]
    return head if head == ALL or head in stages else ""


def _check_prefixes(overrides: list[str], stages: list[str], preset: str) -> None:
    problems = []
    for text in overrides:
        head = text.partition("=")[0].split(".")[0]
        if re.fullmatch(r"stage\w+", head) and head not in stages:
            expected = f"a stage of this chain ({', '.join(reversed(stages))})"
            beside = f"{preset.rpartition('/')[0]}/{head}"
            fix = did_you_mean(head, [*stages, ALL])
            if beside in list_presets():
                fix = f"name a preset that has {head}, such as {beside}"
            problems.append(Problem(text, None, expected, fix))
    if problems:
        raise ConfigError(problems)


def _links(preset: str | Path, overrides: list[str]) -> list[tuple[str | Path, str]]:
    """Read (preset, stage) along the chain, last stage first, without checking the rest."""
    links: list[tuple[str | Path, str]] = []
    seen: list[Path] = []
    name: str | Path | None = preset
    while name is not None:
        file = find_preset(name) if not seen else _find_parent(str(name))
        if file in seen:
            raise ConfigError(Problem("parent", name, "a chain without a cycle", "name another"))
        seen.append(file)
        values = load_layers(file)[0].values
        if "preset" in values and "system" not in values:
            expected = "a preset (this is a sweep)"
            raise ConfigError(Problem("preset", str(name), expected, f"qk sweep {name}"))
        stage = str(values.get("stage", file.stem))
        keys = {f"{stage}.parent", *(["parent"] if not links else [])}
        links.append((name, stage))
        given = [text.partition("=")[2] for text in overrides if text.partition("=")[0] in keys]
        parent = given[-1] if given else values.get("parent")
        parent = None if parent in ("null", "none", "") else parent
        name = None if parent is None or _find_run(str(parent)) else str(parent)
    return links


def _find_parent(name: str) -> Path:
    try:
        return find_preset(name)
    except ConfigError as error:
        fix = error.problems[0].fix
        expected = "a preset, a run folder or an exported folder that exists"
        if user_path(name, "parent").is_dir():
            expected += " (this folder has neither config.yaml nor model_index.json)"
            fix = "qk runs lists the runs; qk export RUN FOLDER writes such a folder"
        problem = Problem("parent", name, expected, fix)
        raise ConfigError(problem) from error


def _find_run(parent: str) -> RunFolder | None:
    path = user_path(parent, "parent")
    for candidate in (path, project_root() / path, runs_root() / path):
        if found := open_folder(candidate):
            return found
    return None


def _is_handed_over(text: str, cfg: DictConfig) -> bool:
    """Tell whether an override of a stage reaches its parent too."""
    if cfg.parent is None:
        return False
    wide = [key for key in CHAIN_WIDE if cfg.from_parent.get(key) != "new"]
    wide += ["head"] if cfg.from_parent.get("head") in ("load", "merge") else []
    key = full_key(text.partition("=")[0].strip())
    return any(key == name or key.startswith(f"{name}.") for name in wide)
