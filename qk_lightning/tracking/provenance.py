"""Provenance: what made a run (versions, machine, commit) and which sources it used.

A digest of sources is taken of our modules that the training process has loaded; a report then
sees whether a finished run and today's code are the same. Never imports torch.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.paths import package_root, project_root
from qk_lightning.config.run_folder import RunFolder

PACKAGES = (
    "qk-lightning", "torch", "lightning", "transformers", "diffusers", "peft", "safetensors",
    "tokenizers", "omegaconf", "numpy", "scipy", "mlflow", "mlflow-skinny", "torchmetrics",
    "Pillow", "dicebear-core", "dicebear-styles", "resvg-py",
)  # fmt: skip
# Showing, scheduling and tracking runs cannot change what they train, nor can file keeping, nor the
# package's list of names (""); `sweeps.stage` is what trains.
NOT_SOURCES = ("", "cli", "sweeps", "tracking", "config.atomic", "config.errors", "config.locks")
SOURCES_AFTER_ALL = ("sweeps.stage",)
MAX_NAMED = 4  # files that differ, where a line has to hold them


def collect() -> dict[str, Any]:
    """Describe this process: packages, Python, machine, commit.

    Returns:
        Plain values, ready for `provenance.json`.
    """
    return {
        "packages": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": {"model": _cpu_model(), "count": os.cpu_count()},
        "gpus": _gpu_names(),
        "threads": _threads(),
        "git": git_state(),
        "command": sys.argv,
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    torch: ModuleType | None = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _threads() -> int | None:
    torch: ModuleType | None = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def git_state() -> dict[str, Any] | None:
    """Return commit and cleanness of the package's checkout, None where it is not in one."""
    checkout = package_root().parent
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, "rev-parse", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--", package_root().name)
    return {"commit": commit or None, "dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def source_digest(cfg: DictConfig | None = None) -> dict[str, str]:
    """Hash the sources that this process has loaded and that can change a result.

    Args:
        cfg: a run's configuration; the modules of parts that it names from outside the package
            (`my_lab.bridges:Foo`) are hashed too.

    Returns:
        SHA-256 by file: relative to the package's parent folder for our own, else relative to
        the project's root, else absolute.
    """
    package = package_root()
    files = {}
    for module_name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        head, _, inner = module_name.partition(".")
        if head != package.name or file is None:
            continue
        excluded = any(f"{inner}.".startswith(f"{name}.") for name in NOT_SOURCES)
        if excluded and inner not in SOURCES_AFTER_ALL:
            continue
        files[f"{package.name}/{Path(file).relative_to(package).as_posix()}"] = Path(file)
    for name in _outside_modules(cfg):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            files[_outside_key(Path(file))] = Path(file)
    # A file that was renamed while the run trained is no reason to lose the run.
    return {key: _sha256(path) if path.is_file() else "gone" for key, path in sorted(files.items())}


def source_changes(folder: RunFolder) -> list[str]:
    """Name the files that differ now from those a run used.

    Args:
        folder: the run; one without a digest counts as unchanged.

    Returns:
        The files' keys in its `sources.json`, sorted.
    """
    recorded = folder.read_json(folder.sources_json.name)
    return sorted(key for key, digest in recorded.items() if _digest_now(key) != digest)


def describe_changes(files: Iterable[str], limit: int = MAX_NAMED) -> str:
    """Name the files that differ, for people.

    Args:
        files: what `source_changes` returns, of one run or of several.
        limit: names that are written out.

    Returns:
        For example `evaluation/stage_scores.py differs`, `a.py, b.py and 3 more differ`.
    """
    names = sorted({file.removeprefix(f"{package_root().name}/") for file in files})
    shown, more = names[:limit], len(names) - limit
    shown += [f"{more} more"] if more > 0 else []
    text = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    return f"{text} {'differs' if len(names) == 1 else 'differ'}"


def _digest_now(key: str) -> str | None:
    package = package_root()
    inside = key.startswith(f"{package.name}/")
    path = (package.parent if inside else project_root()) / key
    return _sha256(path) if path.is_file() else None


def _outside_modules(cfg: DictConfig | None) -> set[str]:
    """Return the modules of all values that read like `module.sub:Class`."""
    if cfg is None:
        return set()
    text = OmegaConf.to_yaml(cfg)
    return set(re.findall(r"name: '?([A-Za-z_][\w.]*):[A-Za-z_]\w*'?\s*$", text, re.MULTILINE))


def _outside_key(path: Path) -> str:
    path, root = path.resolve(), project_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, size: int, mtime: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
