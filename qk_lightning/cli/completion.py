"""The tab key: `qk completion SHELL` prints a shell's code, `complete` answers it (argcomplete)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem

Completer = Callable[..., Iterable[str]]


def completion(options: argparse.Namespace) -> int:
    """Print the code that makes a shell ask `qk` how a word goes on.

    Args:
        options: the parsed command line.

    Returns:
        0.

    Raises:
        ConfigError: argcomplete is not installed.
    """
    try:
        import argcomplete
    except ImportError as error:
        fix = "pip install argcomplete"
        raise ConfigError(Problem("completion", None, "argcomplete", fix)) from error
    print(argcomplete.shellcode(["qk"], shell=options.shell))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and end the process, if argcomplete is there.

    Args:
        parser: the parser of `qk`.
    """
    try:
        import argcomplete
    except ImportError:
        return
    attach(parser)
    argcomplete.autocomplete(parser, always_complete_options="long")


def attach(parser: argparse.ArgumentParser) -> None:
    """Give each argument what knows its words.

    Args:
        parser: the parser of `qk`.
    """
    (verbs,) = (item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    for verb, subparser in verbs.choices.items():
        for action in subparser._actions:
            completer = WORDS.get((verb, action.dest))
            if completer is not None:
                action.completer = completer  # type: ignore[attr-defined]


def presets(**_: Any) -> list[str]:
    """List presets of stages."""
    from qk_lightning.config.paths import list_presets
    from qk_lightning.config.schema import PART_FAMILIES

    apart = {*PART_FAMILIES, "world", "sweeps", "claims", "system"}
    return [name for name in list_presets() if name.partition("/")[0] not in apart]


def sweeps(**_: Any) -> list[str]:
    """List sweep files, and sweeps that were run."""
    from qk_lightning.config.paths import list_presets, sweeps_root

    files = [name for name in list_presets() if name.startswith("sweeps/")]
    return files + [folder.parent.name for folder in sweeps_root().glob("*/sweep.yaml")]


def claims(**_: Any) -> list[str]:
    """List claims."""
    from qk_lightning.claims.reader import list_claims

    return list_claims()


def runs(**_: Any) -> list[str]:
    """List run folders."""
    from qk_lightning.config.find_runs import list_runs

    return [run.name for run in list_runs()]


def run_arguments(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """List what `qk runs <action>` takes next."""
    from qk_lightning.config.schema import PART_FAMILIES

    place = len(parsed_args.arguments or [])
    if parsed_args.action == "export" and place == 1:
        return list(PART_FAMILIES)
    return runs() if place == 0 else []


def run_or_suite(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """List runs, then suites, for `qk evaluate`."""
    from qk_lightning.config.paths import package_root

    suites = sorted(file.stem for file in (package_root() / "evaluation/suites").glob("[!_]*.py"))
    if parsed_args.words or parsed_args.images:
        return ["all", *suites]
    return [*runs(), *presets(), "prompts", "readers"]


def runs_and_presets(**_: Any) -> list[str]:
    """List what `qk generate` takes."""
    return [*runs(), *presets()]


def worlds(**_: Any) -> list[str]:
    """List worlds."""
    from qk_lightning.config.schema import names_of

    return names_of("world")


def keys(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """List the options of the preset on the line."""
    from qk_lightning.cli.explain import explanations
    from qk_lightning.config.chain import plan_chain

    return list(explanations(plan_chain(parsed_args.preset)[-1].cfg))


def overrides(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """List `key=`, and after the `=` of a part the parts that there are."""
    from qk_lightning.config.layer import SWAPPABLE
    from qk_lightning.config.schema import names_of

    key, equals, _value = prefix.partition("=")
    if equals:
        return (
            [f"{key}={name}" for name in names_of(key.split(".")[-1])] if key in SWAPPABLE else []
        )
    return [f"{name}=" for name in keys(parsed_args) if name.startswith(prefix)]


WORDS: dict[tuple[str, str], Completer] = {
    ("fit", "preset"): presets,
    ("fit", "overrides"): overrides,
    ("sweep", "file"): sweeps,
    ("report", "sweep"): sweeps,
    ("claims", "names"): claims,
    ("generate", "run"): runs_and_presets,
    ("export", "run"): runs_and_presets,
    ("evaluate", "words"): run_or_suite,
    ("config", "preset"): presets,
    ("config", "overrides"): overrides,
    ("config", "explain"): keys,
    ("runs", "arguments"): run_arguments,
    ("data", "world"): worlds,
}
