"""The project root and its disk, presets, and the small weights that come along."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from qk_lightning.config.paths import (
    BUILTIN,
    NOT_THERE,
    package_root,
    preset_roots,
    project_root,
    runs_root,
)
from qk_lightning.doctor.finding import Finding, size_text

LITTLE_SPACE = 2e9
MAX_HEADER = 100 * 2**20  # what the safetensors library takes


def check_project() -> Iterator[Finding]:
    """Look at the root and at `runs/`.

    Yields:
        The root, whether `runs/` can be written, the free disk.
    """
    root, runs = project_root(), runs_root()
    why = "$QK_ROOT" if os.environ.get("QK_ROOT") else "the nearest folder with experiments/"
    if not os.environ.get("QK_ROOT") and not (root / "experiments").is_dir():
        why = "this folder; export QK_ROOT, or mkdir experiments, to fix it"
    if not root.is_dir():
        yield Finding("root", "missing", f"{root} does not exist", f"mkdir -p {root}")
        return
    yield Finding("root", "ok", f"{root} ({why})")
    standing = runs if runs.exists() else root
    if not (standing.is_dir() and os.access(standing, os.W_OK | os.X_OK)):
        fix = "change its rights, or export QK_ROOT=<a folder of yours>"
        yield Finding("runs/", "missing", f"{standing} cannot be written", fix)
        return
    yield Finding("runs/", "ok", f"{runs}, writable{'' if runs.exists() else ', not made yet'}")
    free = shutil.disk_usage(standing).free
    fix = "qk runs rm RUN, or remove runs/cache" if free < LITTLE_SPACE else ""
    yield Finding("disk", "note" if fix else "ok", f"{size_text(free)} free", fix)


def check_presets() -> Iterator[Finding]:
    """Compose every preset of a stage and of a sweep.

    Yields:
        The folders, then each preset that does not compose, then a count.
    """
    from qk_lightning.claims.plan import plan_claims
    from qk_lightning.claims.reader import load_claim
    from qk_lightning.config.chain import plan_chain
    from qk_lightning.config.errors import ConfigError
    from qk_lightning.config.paths import list_presets
    from qk_lightning.sweeps.plan import plan_sweep

    roots = preset_roots()
    if not roots:
        fix = "pip install --force-reinstall qk_lightning"
        yield Finding("presets", "missing", "no folder experiments/", fix)
        return
    for root in roots:
        yield Finding("folder", "ok", f"{root}: {len(list(root.rglob('*.yaml')))} files")
    counts = {"stage": 0, "sweep": 0, "claim": 0, "": 0}
    waiting = 0
    for name in list_presets():
        try:
            kind = _kind_of(name)
            if kind == "stage":
                plan_chain(name)
            elif kind == "sweep":
                plan_sweep(name)
            elif kind == "claim":
                plan_claims([load_claim(name)])
        except ConfigError as error:
            if all(problem.expected == "a value" for problem in error.problems):
                waiting += 1  # `???` in a preset: for whoever uses it to name
                continue
            problem = error.problems[0]
            text = " ".join(f"{problem.key}: expected {problem.expected}".split())
            lacks = all(one.expected.startswith(NOT_THERE) for one in error.problems)
            state = "note" if lacks else "missing"  # its header says how to get what it lacks
            yield Finding(name, state, text, problem.fix or f"qk config {name}")
            continue
        counts[kind] += 1
    text = f"{counts['stage']} stages and {counts['sweep']} sweeps compose"
    text += f", {counts['claim']} claims are planned" if counts["claim"] else ""
    text += f"; {waiting} stages wait for data of yours" if waiting else ""
    yield Finding("presets", "ok", f"{text}; {counts['']} more files are what these are made of")


def _kind_of(name: str) -> str:
    """Tell presets of stages, sweeps and claims from the files that these are made of."""
    from qk_lightning.config.layers import load_layers, read_layer
    from qk_lightning.config.paths import find_preset

    own = read_layer(find_preset(name)).values
    if "expect" in own:
        return "claim"
    if "preset" in own:
        return "sweep"
    values = load_layers(name)[0].values
    system = values.get("system")
    is_named = isinstance(system, str) or (isinstance(system, dict) and "name" in system)
    return "stage" if is_named and "trainable" in values else ""


def check_weights() -> Iterator[Finding]:
    """Look at each `builtin:` folder, and at the names that presets use.

    Yields:
        A finding a name.
    """
    folder = package_root() / "weights"
    there = {path.name: path for path in sorted(folder.glob("*")) if path.is_dir()}
    texts = [file.read_text("utf-8") for root in preset_roots() for file in root.rglob("*.yaml")]
    used = {name for text in texts for name in re.findall(rf"{BUILTIN}(\w+)", text)}
    for name in sorted({*there, *used}):
        if name not in there:
            fix = "git checkout qk_lightning/weights, or install the package again"
            yield Finding(f"{BUILTIN}{name}", "missing", f"not in {folder}", fix)
        else:
            yield _weights(there[name])


def _weights(folder: Path) -> Finding:
    name, again = f"{BUILTIN}{folder.name}", f"git checkout {folder}, or install the package again"
    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            count += num_parameters(file)
        except ValueError as error:
            return Finding(name, "missing", f"{file.name}: {error}", again)
    lacking = [file for file in ("config.json", "CARD.md") if not (folder / file).is_file()]
    if lacking:
        return Finding(name, "missing", f"without {', '.join(lacking)}", again)
    size = sum(file.stat().st_size for file in folder.iterdir())
    text = f"{count:,} parameters" if count else "configuration without weights"
    return Finding(name, "ok", f"{text}, {size_text(size)}, with its card")


def num_parameters(file: Path) -> int:
    """Read a safetensors header and count what it lists.

    Args:
        file: the file.

    Returns:
        The number of values of its tensors.

    Raises:
        ValueError: it is no whole safetensors file.
    """
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER + 1
        if length > MAX_HEADER:
            raise ValueError("no safetensors file (a pointer of git-lfs?)")
        try:
            header = json.loads(handle.read(length))
            tensors = [entry for key, entry in header.items() if key != "__metadata__"]
            end = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("its header cannot be read") from error
    if file.stat().st_size != end:
        raise ValueError(f"{file.stat().st_size:,} bytes where its header says {end:,}")
    count = 0
    for entry in tensors:
        product = 1
        for side in entry["shape"]:
            product *= side
        count += product
    return count
