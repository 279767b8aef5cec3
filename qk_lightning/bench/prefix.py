"""What the prefix split saves: the VLM alone and the whole step, with short and long prompts.

The VLM is a random Qwen2.5-VL of 9 M parameters, frozen; the rest is the preset's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from qk_lightning.bench.side_by_side import Entrant
from qk_lightning.bench.timed_step import LONG_TEXT
from qk_lightning.bench.timed_vlm import WAYS
from qk_lightning.bench.variants import STEP, configuration

PRESET = "laptop/stage2"
WIDTH, NUM_LAYERS = 320, 9  # 8.6 M parameters
TEXT_LENGTHS = (64, 512)
NUM_QUERIES, BATCH = 64, 4
VLM = "qk_lightning.bench.timed_vlm:run"
NAMES = {"joint": "joint forward", "split": "prefix split", "kept": "kept prefix"}


def make_vlm(folder: Path, width: int = WIDTH, num_layers: int = NUM_LAYERS) -> Path:
    """Write the VLM.

    Args:
        folder: where to.
        width: of its language model; a multiple of 32.
        num_layers: of its language model.

    Returns:
        The folder.
    """
    from qk_lightning.parts.vlms.small import make_small_vlm

    return make_small_vlm(folder, [LONG_TEXT], hidden_size=width, num_layers=num_layers)


def prefix_entrants(
    vlm: Path, overrides: Sequence[str], steps: int, text_lengths: Sequence[int] = TEXT_LENGTHS
) -> list[Entrant]:
    """Plan what is timed: a VLM's three ways, and two of a whole step, once a text length.

    Args:
        vlm: from `make_vlm`.
        overrides: of the command line.
        steps: steps a turn.
        text_lengths: tokens of every prompt.

    Returns:
        Entrants; the joint forward leads each group.

    Raises:
        ConfigError: an override is wrong.
    """
    own = [
        f"vlm={{name: qwen2_5_vl, path: {vlm}}}",
        f"queries.num_queries={NUM_QUERIES}",
        "connector={name: mlp, residual: false}",
        "data.world={name: scenes}",
        "data.tasks={text_to_image: 1}",
        "data.groups_per_step=1",
        f"trainer.global_batch_size={BATCH}",
        *overrides,
    ]
    alone, whole = [], []
    for length in text_lengths:
        text = OmegaConf.to_yaml(configuration(PRESET, own, steps, length))
        group = f"VLM alone, {length}"
        for way in WAYS:
            alone.append(Entrant(NAMES[way], VLM, (text, steps, way, length), 1, group))
        group = f"whole step, {length}"
        for way in ("joint", "split"):
            arguments = (text, steps, way == "joint", length)
            whole.append(Entrant(NAMES[way], STEP, arguments, 1, group))
    return [*alone, *whole]
