"""Published sizes, counted on the meta device: presets of the MMDiT family, and real models."""

from __future__ import annotations

import pytest
import torch
from small_heads import class_of

from qk_lightning.config.layers import load_layers

# Million parameters, and how exactly the source has them. Query-Kontext's own are "about".
PRESETS = {
    "mmdit_light": (870, 0.15),  # Query-Kontext, arXiv 2509.26641, stage 1
    "mmdit_10b": (10_000, 0.15),  # the same, stages 2 and 3
}
SANA = {"condition_size": 2304, "attention_head_dim": 32, "latent_channels": 32}
PUBLISHED = {
    # Sana, arXiv 2410.10629, table of architectures: 590 M and 1604 M.
    "sana-0.6b": (
        "sana",
        {
            **SANA,
            "num_layers": 28,
            "num_attention_heads": 36,
            "num_cross_attention_heads": 16,
            "cross_attention_head_dim": 72,
        },
        590,
        0.01,
    ),
    "sana-1.6b": (
        "sana",
        {
            **SANA,
            "num_layers": 20,
            "num_attention_heads": 70,
            "num_cross_attention_heads": 20,
            "cross_attention_head_dim": 112,
        },
        1604,
        0.01,
    ),
    # The checkpoint's UNet: 859.5 M.
    "sd1.5": (
        "sd15",
        {
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "num_attention_heads": 8,
            "norm_num_groups": 32,
            "condition_size": 768,
            "latent_channels": 4,
        },
        859.5,
        0.0001,
    ),
    # Stable Diffusion 3.5 Medium's model card: 2.5 B, with the table of positions.
    "sd3.5-medium": (
        "sd3",
        {
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "dual_attention_layers": list(range(13)),
            "condition_size": 4096,
            "patch": 2,
            "pos_embed_max_size": 384,
            "latent_channels": 16,
        },
        2500,
        0.03,
    ),
    # FLUX.1's model card: 12 B.
    "flux.1": (
        "flux",
        {
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "axes_dims_rope": [16, 56, 56],
            "condition_size": 4096,
            "patch": 2,
            "latent_channels": 16,
        },
        12_000,
        0.03,
    ),
    # Qwen-Image, arXiv 2508.02324: 20 B.
    "qwen-image": (
        "qwen_image",
        {
            "num_layers": 60,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "axes_dims_rope": [16, 56, 56],
            "condition_size": 3584,
            "patch": 2,
            "latent_channels": 16,
        },
        20_000,
        0.03,
    ),
}


def millions(name, options):
    """Count the weights and saved tables of a head, in millions."""
    with torch.device("meta"):
        head = class_of(name)(**options)
    return sum(value.numel() for value in head.state_dict().values()) / 1e6


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_about_its_published_size(preset):
    options = load_layers(f"head/{preset}")[0].values["head"]
    count, tolerance = PRESETS[preset]
    found = millions(options.pop("name"), {**options, "latent_channels": 16})
    print(f"{preset}: {found:.1f} M")
    assert found == pytest.approx(count, rel=tolerance)


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_published_size_can_be_reached_by_options(model):
    name, options, count, tolerance = PUBLISHED[model]
    found = millions(name, options)
    print(f"{model}: {found:.1f} M")
    assert found == pytest.approx(count, rel=tolerance)
