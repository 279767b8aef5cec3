"""Tiny checkpoints with random weights, as transformers and diffusers save them: one a family.

`HEADS` is the one place where heads are listed by hand: how to make a checkpoint of a family is
known to nobody else. Not here: the VLMs' (tiny_vlms.py), what is done with them (triples.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from qk_lightning.bench.tiny_vlms import KNOWN, make_tiny_vlm

CONDITION_WIDTH = 24  # of every tiny head, where nobody asks for another
PATCH = 2  # of the codec `pixels`: 12 channels a latent cell
CHANNELS = 3 * PATCH**2
TEXTS = ("a red circle", "two blue squares on a green plain", "make it yellow", "")


@dataclass(frozen=True)
class TinyHead:
    """A head and the parts it goes with.

    Args:
        options: the head's own, besides `name` and `path`.
        objective: the objective's options.
    """

    options: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=lambda: {"name": "flow_matching"})


def make_vlm(name: str, folder: Path) -> dict[str, Any] | None:
    """Write a tiny VLM.

    Args:
        name: as in YAML.
        folder: where to write.

    Returns:
        Its options; None where no recipe is known.
    """
    if name not in KNOWN:
        return None
    return {"name": name, "path": str(make_tiny_vlm(name, folder))}


def make_head(name: str, folder: Path, condition_width: int) -> TinyHead | None:
    """Write a tiny head for 12 latent channels.

    Args:
        name: as in YAML.
        folder: where to write.
        condition_width: of the condition that it reads.

    Returns:
        The head with its options, and its objective; None where no recipe is known.
    """
    if name not in HEADS:
        return None
    recipe, tiny = HEADS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        recipe(condition_width).save_pretrained(str(folder))
    return TinyHead({"name": name, "path": str(folder), **tiny.options}, tiny.objective)


def _flux(condition_width: int) -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=condition_width,
        pooled_projection_dim=4,
        guidance_embeds=False,
        axes_dims_rope=(2, 2, 4),
    )


def _sana(condition_width: int) -> Any:
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=condition_width,
        mlp_ratio=2.0,
        sample_size=4,
        patch_size=1,
    )


def _sd3(condition_width: int) -> Any:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=condition_width,
        caption_projection_dim=16,
        pooled_projection_dim=4,
        pos_embed_max_size=8,
    )


def _qwen_image(condition_width: int) -> Any:
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * CHANNELS,
        out_channels=CHANNELS,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=condition_width,
        axes_dims_rope=(2, 2, 4),
    )


def _sd15(condition_width: int) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=4,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=condition_width,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


HEADS: dict[str, tuple[Callable[[int], Any], TinyHead]] = {
    "flux": (_flux, TinyHead()),
    "sana": (_sana, TinyHead({"num_image_slots": 1})),
    "sd3": (_sd3, TinyHead({"num_image_slots": 1})),
    "qwen_image": (_qwen_image, TinyHead()),
    "sd15": (_sd15, TinyHead({"num_image_slots": 1}, {"name": "ddpm"})),
}
