"""The verbs of `qk` and their options. Only the standard library is imported here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from qk_lightning.cli.sweep_options import add_sweep_options
from qk_lightning.cli.wrong_words import unknown_option, with_fix
from qk_lightning.config.paths import list_suites

EXAMPLES = """\
examples:
  qk sweep sweeps/num_queries              train and compare, then print the table
  qk sweep sweeps/num_queries --plan       what would run, what is done, and for how long
  qk sweep FILE --retry failed             go on, and try again what failed
  qk claims                                claims of papers, and what the runs here say of them
  qk fit laptop/stage1                     one stage (its ancestors first, if they are missing)
  qk fit laptop/stage3 connector=enc_proj connector.num_layers=2 all.max_steps=20
  qk fit laptop/stage3 --check             do parts, data and tasks fit together? nothing is trained
  qk generate laptop/stage3 --prompt "a smiling person with red hair" --num-images 4
  qk evaluate laptop/stage3 all            its scores by all suites that fit
  qk evaluate --images DIR scenes          scores of anybody's pictures
  qk config laptop/stage1                  every value and where it comes from
  qk config laptop/stage1 --explain queries.num_queries
  qk config laptop/stage1 --write experiments/mine.yaml    all of it, to change and to train
  qk runs list                             what was trained
  qk export laptop/stage3 mine             all its parts, configurations and a card, in a folder
  qk data show avatars                     a labelled sheet of pictures
  qk data leakage mixture                  is anything that is held out in the training data?
  qk ui                                    every run and sweep in MLflow's page
  qk doctor                                is everything there that the kit needs?
  qk bench parts                           which parts fit together, tried on tiny checkpoints
  eval "$(qk completion bash)"             let the tab key complete verbs, presets, options, runs

overrides: key=value; seed, world and handed-over parts reach the whole chain of stages,
everything else the named stage; `stage1.` or `all.` before the key says otherwise.
"""
SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


class TopParser(argparse.ArgumentParser):
    """The parser of `qk`: what a verb does not know is said by the verb."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse, and refuse what is left over under the name of the verb."""
        words = sys.argv[1:] if args is None else list(args)
        options, unknown = self.parse_known_args(words, namespace)
        if unknown:
            verbs = next(item.choices for item in self._actions if item.dest == "verb")
            parser = verbs[options.verb] if verbs and options.verb else self
            flags = [word for word in unknown if word.startswith("-")]
            parser.error(unknown_option(parser, (flags or unknown)[0], words))
        return options

    def error(self, message: str) -> NoReturn:
        """End with 2; the message has its fix."""
        self.exit(2, f"{self.prog}: {with_fix(self, message)}\n")


class VerbParser(argparse.ArgumentParser):
    """A verb's parser that takes its overrides anywhere, after its flags too."""

    _is_inside = False

    def error(self, message: str) -> NoReturn:
        """End with 2; the message has its fix."""
        self.exit(2, f"{self.prog}: {with_fix(self, message)}\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse flags and the rest in any order; argparse's own way calls this one twice."""
        if self._is_inside or not self._takes_many():
            return super().parse_known_args(args, namespace)
        self._is_inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_inside = False

    def _takes_many(self) -> bool:
        return any(item.nargs in ("*", "+") for item in self._get_positional_actions())


def build_parser() -> argparse.ArgumentParser:
    """Make the parser with all verbs."""
    parser = TopParser(
        prog="qk",
        description="Ablations of unified image generation and editing, composed from YAML.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="store_true", help="print the version and end")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=VerbParser)
    _add_training(verbs)
    _add_drawing(verbs)
    _add_evaluation(verbs)
    _add_looking(verbs)
    _add_tracking(verbs)
    _add_setup(verbs)
    return parser


def _verb(verbs: argparse._SubParsersAction, name: str, module: str, text: str):  # type: ignore[no-untyped-def, type-arg]  # noqa: ANN202
    # A prefix stands for no option: `--image` would be taken for `--image-guidance-scale`.
    parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(module=f"qk_lightning.cli.{module}", function=name)
    return parser


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="change the configuration"
    )


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default=None,
        metavar="best|STEP|FILE",
        help="the run as it was then; default: its last step, as it finished",
    )


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", action="store_true", help="say what would run, and end")
    parser.add_argument(
        "--check",
        action="store_true",
        help="the same, and see that parts, data and tasks fit together (no accelerator needed)",
    )
    parser.add_argument(
        "--redo", action="store_true", help="train again what was done by other code"
    )


def _add_training(verbs: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    fit = _verb(verbs, "fit", "train", "train a preset, and the ancestors it needs")
    fit.add_argument("preset", help="a preset such as laptop/stage1, or a YAML file")
    _add_overrides(fit)
    _add_plan(fit)
    sweep = _verb(verbs, "sweep", "train", "train what is missing of a sweep, and compare its rows")
    sweep.add_argument(
        "file", help="a YAML file, one such as sweeps/num_queries, or the name of one that was run"
    )
    _add_overrides(sweep)
    _add_plan(sweep)
    add_sweep_options(sweep)
    report = _verb(verbs, "report", "train", "write a sweep's report again and print its table")
    report.add_argument("sweep", help="a sweep's name or file")
    claims = _verb(
        verbs, "claims", "claims", "judge claims of papers by the runs here; --run trains them"
    )
    claims.add_argument("names", nargs="*", help="claims in experiments/claims/; default: all")
    claims.add_argument("--plan", action="store_true", help="say what would run, and end")
    claims.add_argument("--run", action="store_true", help="train what is missing")
    claims.add_argument(
        "--redo", action="store_true", help="with --run: train again what was done by other code"
    )
    claims.add_argument(
        "--seeds", metavar="N,N,N", help="these seeds in place of the files': a test from scratch"
    )
    add_sweep_options(claims)
    claims.add_argument("--report", metavar="FILE", help="write a Markdown page of the verdicts")


def _add_drawing(verbs: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    generate = _verb(verbs, "generate", "draw", "draw pictures with a finished run")
    generate.add_argument(
        "run",
        nargs="*",
        help="a run, by its folder, name or the beginning of either; an exported folder; a preset"
        " that was trained; with --ui several",
    )
    generate.add_argument("--prompt", default=None, help='caption or instruction; "" for none')
    generate.add_argument("--source", nargs=1, default=[], metavar="PNG", help="picture to edit")
    generate.add_argument(
        "--reference", nargs="+", default=[], metavar="PNG", help="pictures whose identity is kept"
    )
    generate.add_argument("--num-images", type=int, default=1)
    generate.add_argument("--height", type=int, default=None, help="pixels; default: as trained")
    generate.add_argument("--width", type=int, default=None, help="pixels; default: as trained")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--num-inference-steps", type=int, default=None)
    generate.add_argument("--guidance-scale", type=float, default=None)
    generate.add_argument("--image-guidance-scale", type=float, default=None)
    generate.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    _add_checkpoint(generate)
    generate.add_argument("--output", default="generated", help="folder for the pictures")
    generate.add_argument("--ui", action="store_true", help="draw in a page, several runs at once")
    generate.add_argument("--port", type=int, default=None, help="of the page; default: a free one")


def _add_evaluation(verbs: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    evaluate = _verb(verbs, "evaluate", "evaluate", "score a run, or anybody's pictures, by suites")
    evaluate.epilog = f"suites: {', '.join(list_suites())}"
    evaluate.add_argument(
        "words",
        nargs="+",
        metavar="RUN SUITE",
        help="a run and a suite or `all`; with --images the suite alone, and <world>.<option>=value"
        " where the world is not the default; `prompts SUITE` exports what to draw; `readers`"
        " measures the readers",
    )
    evaluate.add_argument(
        "--images", default=None, metavar="FOLDER", help="score <id>.png or <id>/0000.png, ..."
    )
    evaluate.add_argument("--limit", type=int, default=None, help="items of each world and task")
    evaluate.add_argument("--num-samples", type=int, default=1, help="pictures of each item")
    evaluate.add_argument("--seed", type=int, default=0, help="of the first picture's noise")
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    _add_checkpoint(evaluate)
    evaluate.add_argument(
        "--output", default=None, help="folder for prompts and verdicts, file for `readers`"
    )


def _add_looking(verbs: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    config = _verb(verbs, "config", "config", "print a resolved configuration with its origins")
    config.add_argument("preset")
    _add_overrides(config)
    config.add_argument("--explain", metavar="KEY", help="say what an option means")
    config.add_argument("--write", metavar="FILE", help="write all of it, with comments, as YAML")
    config.add_argument("--force", action="store_true", help="let --write replace a file")
    config.add_argument(
        "--dry-run", action="store_true", help="parameters, batches and memory, without weights"
    )
    export = _verb(verbs, "export", "export", "write a finished run as a folder for others")
    export.add_argument("run", help="a run, or a preset that was trained")
    export.add_argument("folder", help="where to write: new, empty, or an earlier export")
    export.add_argument(
        "--lora", default="merge", choices=["merge", "keep"], help="keep: beside its part, for peft"
    )
    _add_checkpoint(export)
    export.add_argument("--half", action="store_true", help="store float16")
    export.add_argument("--force", action="store_true", help="write over an earlier export")
    runs = _verb(verbs, "runs", "runs", "list, show, export or remove runs")
    runs.add_argument("action", nargs="?", default="list", choices=["list", "show", "rm", "export"])
    runs.add_argument("arguments", nargs="*", help="show RUN | rm RUN | export RUN PART FOLDER")
    data = _verb(verbs, "data", "data", "look at what a world holds")
    data.add_argument("action", choices=["show", "leakage"])
    data.add_argument("world", help="a world such as avatars or mixture, or a .jsonl file")
    _add_overrides(data)
    data.add_argument("--output", default=None, help="the PNG to write")
    data.add_argument("--per-task", type=int, default=4)
    data.add_argument(
        "--limit", type=int, default=None, help="training samples to look at (leakage; default all)"
    )


def _add_tracking(verbs: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    ui = _verb(verbs, "ui", "ui", "serve MLflow's page over all runs and sweeps")
    ui.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    ui.add_argument("--port", type=int, default=None, help="default: the first free from 5000")
    track = _verb(verbs, "track", "track", "send MLflow what it missed, or make its view anew")
    track.add_argument("action", choices=["sync", "rebuild"])
    track.add_argument("run", nargs="?", default="all", help="one run alone (sync; default all)")
    track.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _add_setup(verbs: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    doctor = _verb(verbs, "doctor", "doctor", "look whether all is there that the kit needs")
    doctor.add_argument("--quick", action="store_true", help="leave out what imports the libraries")
    bench = _verb(
        verbs, "bench", "bench", "try parts with each other; time training steps, and sweeps"
    )
    bench.add_argument(
        "what",
        choices=["parts", "train", "prefix", "sweep"],
        help="parts: every vlm x connector x head, and parameter counts; train: a preset's step"
        " and variants of it; prefix: what the prefix split of a frozen VLM saves; sweep: what a"
        " sweep of members that do nothing costs",
    )
    bench.add_argument(
        "words", nargs="*", default=[], metavar="PRESET key=value", help="what to time"
    )
    bench.add_argument("--only", nargs="+", default=[], metavar="PART", help="parts to keep to")
    bench.add_argument(
        "--variants",
        nargs="+",
        default=[],
        metavar="NAME",
        help="joint, compile, checkpointing, ddp, fsdp, bf16, unmeasured, or overrides in quotes",
    )
    bench.add_argument(
        "--text-lengths", nargs="+", type=int, default=[], metavar="TOKENS", help="of every prompt"
    )
    bench.add_argument("--repetitions", type=int, default=None, help="turns of each (5)")
    bench.add_argument("--steps", type=int, default=None, help="optimiser steps a turn (2)")
    bench.add_argument("--output", default=None, metavar="FILE", help="a page whose tables to fill")
    completion = _verb(verbs, "completion", "completion", "print a shell's code for the tab key")
    completion.add_argument(
        "shell", choices=SHELLS, help='for example eval "$(qk completion bash)"'
    )
