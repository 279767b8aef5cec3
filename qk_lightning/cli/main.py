"""`qk`: one command, from its words to its exit code.

A verb's own module is imported when the verb is used, so that `qk --help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from qk_lightning.cli.parser import build_parser

RUN_FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130
GOES_ON = {
    "fit": "; the same command goes on from the last checkpoints",
    "sweep": "; the same command goes on from the last checkpoints",
    "claims": "; the same command goes on from the last checkpoints",
    "evaluate": "; the same command goes on with the pictures that are missing",
    "generate": "; the same command goes on: whole pictures stay until they are drawn anew",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK = (errno.EROFS, errno.EACCES, errno.ENAMETOOLONG)
COMPLETING = "_ARGCOMPLETE"  # set by the shell when the tab key was pressed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `qk`; by default those of the process.

    Returns:
        0, 1 when a run failed, 2 for a user's mistake, 130 after Ctrl-C, 75 where a scheduler
        stopped it (SIGTERM, SIGUSR1, SIGUSR2).
    """
    parser = build_parser()
    if COMPLETING in os.environ:
        from qk_lightning.cli.completion import complete

        complete(parser)
    _check_verb(parser, sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    if options.version:
        from qk_lightning import __version__

        print(f"qk_lightning {__version__}")
        return 0
    if options.verb is None:
        parser.print_help()
        return 0
    return _run(options)


def _check_verb(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Suggest a verb for a misspelt one; argparse lists them all."""
    from qk_lightning.config.errors import did_you_mean

    verbs = [name for action in parser._actions for name in action.choices or ()]
    if words and not words[0].startswith("-") and words[0] not in verbs:
        parser.error(f"there is no verb {words[0]!r}\n    fix: {did_you_mean(words[0], verbs)}")


def _run(options: argparse.Namespace) -> int:
    from qk_lightning.config.arguments import check_once
    from qk_lightning.config.errors import ConfigError
    from qk_lightning.config.stop_signals import as_ctrl_c, forget
    from qk_lightning.sweeps.launch import RanksFailed

    # Nothing of ours asks a hub for files that a path names; retries offline take a minute.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    module = importlib.import_module(options.module)
    forget()
    try:
        with as_ctrl_c():
            check_once(getattr(options, "overrides", ()))
            code = int(getattr(module, options.function)(options))
        return _stopped() if code == INTERRUPTED else code
    except ConfigError as error:
        print(f"qk {options.verb}: {error}", file=sys.stderr)
        return USER_ERROR
    except FloatingPointError as error:
        print(f"qk {options.verb}: the run has diverged: {error}", file=sys.stderr)
        return RUN_FAILED
    except KeyboardInterrupt:
        print(f"\nstopped{GOES_ON.get(options.verb, '')}", file=sys.stderr)
        return _stopped()
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        said = str(error) if isinstance(error, RanksFailed) else None
        if (said := _of_the_disk(error) or said) is None:
            raise
        print(f"qk {options.verb}: {said}", file=sys.stderr)
        return RUN_FAILED


def _stopped() -> int:
    """Return the exit code of a command that was stopped; SLURM's job goes back to the queue."""
    from qk_lightning.config.stop_signals import exit_code, requeue

    if said := requeue():
        print(said, file=sys.stderr)
    return exit_code()


def _of_the_disk(error: Exception) -> str | None:
    """Say what the disk refused, None for an error of another kind."""
    number = error.errno if isinstance(error, OSError) else None
    # safetensors, and a rank, say it in words alone
    words = (f"os error {errno.ENOSPC}", *(f"[Errno {full}]" for full in FULL))
    if number in FULL or any(word in str(error) for word in words):
        return f"{error}\n    fix: no space left: free some, the same command goes on"
    return str(error) if number in DISK else None


if __name__ == "__main__":
    sys.exit(main())
