"""How to make each row of a report again: commands, identities, and whose code it was."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from qk_lightning.config.chain import plan_chain
from qk_lightning.sweeps.plan import Member, SweepPlan
from qk_lightning.tracking.provenance import describe_changes

COMMIT = 10


def reproduce_cells(plan: SweepPlan) -> list[list[str]]:
    """List what trains each member, with the identities of its runs.

    Args:
        plan: the sweep.

    Returns:
        Lines of cells, the heading first: row, seed, command, runs by stage, code.
    """
    lines = [["row", "seed", "command", "runs", "code"]]
    for member in plan.members:
        runs = ", ".join(f"{stage.stage} {stage.identity}" for stage in member.chain)
        code = ", ".join(_codes(plan, member)) or "-"
        lines.append([member.row.name, str(member.seed), command_of(plan, member), runs, code])
    return lines


def command_of(plan: SweepPlan, member: Member) -> str:
    """Write the command that trains one member and its ancestors.

    Args:
        plan: the sweep.
        member: the member.
    """
    texts = [*plan.file.overrides, *member.row.overrides, f"seed={member.seed}"]
    preset = plan.file.preset
    if plan.file.command and (cut := _up_to_the_last_stage(plan, member, texts)):
        preset, texts = cut
    return " ".join(["qk", "fit", *(shlex.quote(str(text)) for text in (preset, *texts))])


def _up_to_the_last_stage(
    plan: SweepPlan, member: Member, texts: Sequence[str]
) -> tuple[str, list[str]] | None:
    """Name the preset and overrides of a member whose later stages are not trained.

    Returns:
        Preset and overrides; None where no stage is left out.
    """
    whole = plan_chain(plan.file.preset, texts)
    if len(whole) == len(member.chain):
        return None
    preset = str(whole[len(member.chain)].cfg.parent)
    if len(member.chain) == 1:
        return preset, list(member.chain[0].overrides)
    return preset, [f"{s.stage}.{text}" for s in member.chain for text in s.overrides]


def _codes(plan: SweepPlan, member: Member) -> dict[str, None]:
    """Name the commits that a member's finished runs were made at, each once."""
    found: dict[str, None] = {}
    for stage in member.chain:
        run = plan.graph[stage.identity]
        state = run.folder.read_json(run.folder.provenance_json.name).get("git") if run.done else {}
        if isinstance(state, dict) and state.get("commit"):
            edited = " with edits" if state.get("dirty") else ""
            found[f"{str(state['commit'])[:COMMIT]}{edited}"] = None
    return found


def code_notes(plan: SweepPlan) -> list[str]:
    """Say where a sweep's runs were not all made by the same code, or not by today's.

    Runs are held against each other file by file, so two old versions are told apart, too.

    Args:
        plan: the sweep.

    Returns:
        Sentences, none where all is of one code and that is today's.
    """
    done = [run for run in plan.graph.values() if run.done]
    seen: dict[str, set[str]] = {}
    for run in done:
        for file, digest in run.folder.read_json(run.folder.sources_json.name).items():
            seen.setdefault(file, set()).add(str(digest))
    mixed = [file for file, digests in seen.items() if len(digests) > 1]
    notes = []
    if mixed:
        notes.append(
            f"This sweep mixes runs of different code: between its runs {describe_changes(mixed)}. "
            "A difference between rows may be one of the code; `--redo` trains the older ones again"
            " with today's."
        )
    if plan.changes:
        files = {file for files in plan.changes.values() for file in files}
        notes.append(
            f"{len(plan.changes)} of {len(done)} finished runs were made by sources that differ "
            f"from today's: {describe_changes(files)}."
        )
    return notes
