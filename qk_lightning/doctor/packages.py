"""Versions against the requirements of the installed distribution; nothing is imported."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import qk_lightning
from qk_lightning.doctor.finding import Finding

DISTRIBUTION = "qk_lightning"


def check_packages(distribution: str = DISTRIBUTION) -> Iterator[Finding]:
    """Compare what is installed with what the distribution asks for.

    Args:
        distribution: whose requirements.

    Yields:
        Python, the kit itself, then each requirement; those of extras in one line each.
    """
    folder = Path(qk_lightning.__file__).parent
    here = f"{qk_lightning.__version__}, from {folder}"
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        yield Finding("python", "ok", platform.python_version())
        fix = f"pip install --editable {folder.parent}"
        text = f"{here}; not installed, so its requirements are unknown"
        yield Finding("qk_lightning", "missing", text, fix)
        return
    yield _python(found.metadata.get("Requires-Python") or "")
    yield Finding("qk_lightning", "ok", here)
    try:
        from packaging.requirements import Requirement
    except ImportError:
        fix = "pip install packaging"
        yield Finding("packaging", "missing", "needed to read requirements", fix)
        return
    extras: dict[str, list[str]] = {
        extra: [] for extra in found.metadata.get_all("Provides-Extra") or []
    }
    for text in found.requires or []:
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield _requirement(
                wanted.name, str(wanted.specifier), f"{wanted.name}{wanted.specifier}"
            )
            continue
        for extra, missing in extras.items():
            if wanted.marker.evaluate({"extra": extra}) and version_of(wanted.name) is None:
                missing.append(wanted.name)
    for extra, missing in extras.items():
        text = f"without {', '.join(missing)}" if missing else "all there"
        fix = f"pip install {' '.join(missing)}" if missing else ""
        yield Finding(f"extra [{extra}]", "note" if missing else "ok", text, fix)


def _python(wanted: str) -> Finding:
    have = platform.python_version()
    if not wanted or _fits(have, wanted):
        return Finding("python", "ok", f"{have} (wanted {wanted or 'any'})")
    fix = "make a new environment with a Python in that range"
    return Finding("python", "missing", f"{have}, wanted {wanted}", fix)


def _requirement(name: str, wanted: str, text: str) -> Finding:
    have = version_of(name)
    fix = f'pip install "{text}"'
    if have is None:
        return Finding(name, "missing", f"not installed, wanted {wanted or 'any'}", fix)
    if not _fits(have, wanted):
        return Finding(name, "missing", f"{have}, wanted {wanted}", fix)
    return Finding(name, "ok", f"{have} (wanted {wanted or 'any'})")


def _fits(have: str, wanted: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True  # said beside the requirements
    return SpecifierSet(wanted).contains(have, prereleases=True)


def version_of(name: str) -> str | None:
    """Return an installed version, None where there is none.

    Args:
        name: a distribution.
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
