"""The README.md of an exported folder: how to load it, what made it, what it scores, licences.

Everything is read from the run's folder; what the run did not record is said to be unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.exported_folder import GRID, RUN_CONFIG
from qk_lightning.config.paths import BUILTIN, is_local, resolve_path
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.config.schema import PART_FAMILIES
from qk_lightning.evaluation.levels import EVALUATIONS, FINAL, NAMES, SUMMARY
from qk_lightning.evaluation.table import number

MICAH = (
    "art in the style `micah` by Micah Lanier, CC BY 4.0. Pictures that show it should carry the "
    "line: Remix of „Avatar Illustration System” "
    "(https://www.figma.com/community/file/829741575478342595) by „Micah Lanier”, licensed under "
    "„CC BY 4.0” (https://creativecommons.org/licenses/by/4.0/)"
)
DATA_LICENCES = {"avatars": MICAH, "scenes": "drawn by qk_lightning itself, no rights of others"}
UNKNOWN = "unknown; look into the model's own card before you publish"
LICENCE_LINE = re.compile(r"^(?:license|licence):\s*(\S.*)$", re.IGNORECASE | re.MULTILINE)


def model_card(
    run: RunFolder,
    chain: Sequence[Mapping[str, str]],
    stored: str,
    fingerprint: str,
    has_grid: bool,
) -> str:
    """Write the card of an exported run.

    Args:
        run: the run.
        chain: the runs behind it, as model_index.json lists them.
        stored: how the weights are stored and what became of a LoRA, in words.
        fingerprint: of the world's samples and pixels; "" where the data is not at hand.
        has_grid: whether there is a picture of its samples beside the card.

    Returns:
        Markdown, with the front matter that model hubs read.
    """
    cfg = run.config
    front = ["---", "library_name: qk_lightning", "pipeline_tag: text-to-image"]
    front += ["tags: [image-generation, image-editing, query-kontext]", "---", ""]
    grid = ["", f"![Samples of the validation split]({GRID})", ""] if has_grid else [""]
    lines = [
        *front,
        f"# {run.name}",
        "",
        f"The parts of one `{cfg.system.name}` run of qk_lightning, stage `{cfg.stage}`: {stored}.",
        *grid,
        *_how_to_load(cfg),
        *_parts(run),
        *_training(run, fingerprint),
        *_chain(chain),
        *_scores(run),
        *_licences(cfg),
    ]
    return "\n".join(lines) + "\n"


def _how_to_load(cfg: DictConfig) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from qk_lightning import QueryKontextPipeline",
        "",
        'pipeline = QueryKontextPipeline.from_pretrained("THIS_FOLDER")',
        'pictures = pipeline("a prompt", images=[("reference", "picture.png")], seed=1)',
        "```",
        "",
        'Or `qk generate THIS_FOLDER --prompt "a prompt"`; a preset trains on from it by',
        "`parent: THIS_FOLDER`.",
        f"Pictures of {cfg.data.world.size} x {cfg.data.world.size} pixels were trained on.",
        "",
    ]


def _parts(run: RunFolder) -> list[str]:
    cfg, counts = run.config, run.read_json("parameters.json")
    lines = [
        "## Parts",
        "",
        "| part | name | parameters | trained by this run |",
        "|---|---|---|---|",
    ]
    for family in (name for name in PART_FAMILIES if name in cfg):
        how = cfg.trainable.get(family)
        word = "no" if how is None else "all" if how == "full" else f"LoRA, rank {how.lora.rank}"
        total = counts.get(family, {}).get("total")
        shown = "unknown" if total is None else f"{total:,}"
        lines.append(f"| {family} | `{cfg[family].name}` | {shown} | {word} |")
    return [*lines, ""]


def _training(run: RunFolder, fingerprint: str) -> list[str]:
    cfg, status, provenance = run.config, run.status, run.read_json("provenance.json")
    hardware = "unknown"
    if provenance:
        gpus = ", ".join(map(str, provenance.get("gpus") or []))
        hardware = gpus or f"{provenance['cpu']['model']}, {provenance['threads']} thread(s)"
    packages = provenance.get("packages", {})
    versions = ", ".join(
        f"{name} {packages[name]}"
        for name in ("torch", "transformers", "diffusers")
        if name in packages
    )
    seconds = f"{status['seconds']:.0f} s" if "seconds" in status else "unknown"
    tasks = {task: weight for task, weight in cfg.data.tasks.items() if weight}
    world = json.dumps(OmegaConf.to_container(cfg.data.world))
    return [
        "## Training",
        "",
        f"- configuration: [{RUN_CONFIG}]({RUN_CONFIG}), identity `{run.identity}`",
        f"- data: `{world}`",
        f"- data fingerprint: {fingerprint or 'unknown, the data is not at hand'}",
        f"- tasks and their weights: `{json.dumps(tasks)}`",
        f"- steps: {cfg.trainer.max_steps}, global batch {cfg.trainer.global_batch_size}, "
        f"precision {cfg.trainer.precision}, seed {cfg.seed}",
        f"- learning rate: {cfg.optimizer.lr:g}, EMA decay: {cfg.ema.decay:g}",
        f"- hardware: {hardware}",
        f"- time: {seconds}, finished {status.get('finished', 'unknown')}",
        f"- versions: {versions or 'unknown'}",
        "",
    ]


def _chain(chain: Sequence[Mapping[str, str]]) -> list[str]:
    lines = ["## The runs behind it", ""]
    for place, item in enumerate(chain, 1):
        stage = item.get("stage") or "its folder was not at hand"
        lines.append(f"{place}. `{item['run']}` ({stage}, identity `{item['identity']}`)")
    return [*lines, ""]


def _scores(run: RunFolder) -> list[str]:
    """List what was measured: suites with intervals and controls, then the run's own numbers."""
    found = run.path / EVALUATIONS
    # Those of `qk evaluate` first: they are of more items than the end of the run draws.
    files = sorted(found.glob(f"*/{SUMMARY}")) + sorted((found / FINAL).glob(f"*/{SUMMARY}"))
    lines = ["## Scores", ""]
    for file in files:
        lines += _suite(json.loads(file.read_text(encoding="utf-8")), file.parent, found)
    metrics = run.last_metrics()
    plain = {name: value for name, value in metrics.items() if name.startswith("val/")}
    if not files:  # nothing with an interval: the last values stand in for them
        plain |= {name: value for name, value in metrics.items() if name.startswith("eval/")}
    if plain:
        lines += ["On the validation split, without intervals:", ""]
        lines += [*(f"- {name}: {value:.4g}" for name, value in sorted(plain.items())), ""]
    return lines if files or plain else [*lines, "Nothing was measured.", ""]


def _suite(summary: Mapping[str, Any], folder: Path, root: Path) -> list[str]:
    entries = summary["metrics"]
    controls = [name for name in NAMES if any(name in e["controls"] for e in entries.values())]
    when = "at the end of the run" if folder.parent.name == FINAL else "by `qk evaluate`"
    headings = ["metric", "value", "interval", "n", *(NAMES[name] for name in controls)]
    lines = [
        f"### {folder.relative_to(root).as_posix()}",
        "",
        f"Measured {when}: {summary['num_scored']} of {summary['num_planned']} pictures, 95 % "
        f"bootstrap intervals over prompts; beside them what the controls reach.",
        "",
        f"| {' | '.join(headings)} |",
        "|" + "---|" * len(headings),
    ]
    for key, entry in entries.items():
        low, high = entry["ci_low"], entry["ci_high"]
        cells = [key.rpartition("/")[2], number(entry["value"])]
        cells += ["-" if low is None else f"[{number(low)}, {number(high)}]"]
        cells += [str(entry["num_planned"])]
        cells += [number(entry["controls"].get(name)) for name in controls]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _licences(cfg: DictConfig) -> list[str]:
    worlds = {cfg.data.world.name: cfg.data.world, **cfg.data.world.get("worlds", {})}
    names = sorted({str(node.name) for node in worlds.values() if node.name != "mixture"})
    lines = ["## Licences, as far as known", ""]
    lines += [
        f"- data `{name}`: {DATA_LICENCES.get(name, 'unknown; it is your own to know')}"
        for name in names
    ]
    for family in (name for name in PART_FAMILIES if name in cfg):
        if path := cfg[family].get("path"):
            lines.append(f"- {family}, began from `{path}`: {base_licence(str(path))}")
    lines.append("- code: qk_lightning, Apache-2.0")
    return lines


def base_licence(path: str) -> str:
    """Say what is known of the licence of weights that a part began from.

    Args:
        path: as the part's `path` gives it.

    Returns:
        Words; "unknown" among them where no card says it.
    """
    if not is_local(path):
        return f"as its card says: https://huggingface.co/{path}"
    try:
        folder = resolve_path(path)
    except ValueError:  # it has gone since the run
        return UNKNOWN
    for name in ("CARD.md", "README.md"):
        file = folder / name
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if match := LICENCE_LINE.search(text):
            return match.group(1).strip()
        if path.startswith(BUILTIN) and text:
            art = "; it saw " + MICAH if "micah" in text else ""
            return f"Apache-2.0, comes with qk_lightning{art}"
    return UNKNOWN
