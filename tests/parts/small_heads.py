"""Small heads of every kind, their inputs, and the diffusers model of each called by hand."""

from __future__ import annotations

import importlib

import torch

from qk_lightning.config.schema import schema_of

CHANNELS, WIDTH = 5, 12  # of a latent cell, of the condition
SMALL = {
    "flux": {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "axes_dims_rope": [4, 6, 6],
    },
    "sana": {
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "num_cross_attention_heads": 2,
    },
    "sd3": {
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "dual_attention_layers": [0],
        "pos_embed_max_size": 6,
    },
    "qwen_image": {
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "axes_dims_rope": [4, 6, 6],
    },
    "sd15": {"block_out_channels": [8, 16], "num_attention_heads": 2, "norm_num_groups": 4},
}
TOKEN_HEADS, CHANNEL_HEADS = ("flux", "qwen_image"), ("sana", "sd3", "sd15")
BLOCKS = {"flux": 2, "sana": 2, "sd3": 2, "qwen_image": 2, "sd15": 5}


def class_of(name: str) -> type:
    """Import a head."""
    schema = schema_of("head", name)
    return getattr(importlib.import_module(schema.module), schema.class_name)


def make(name: str, **changes):
    """Build a small head, the same each time; what starts as zero is drawn too."""
    torch.manual_seed(0)
    options = {**SMALL[name], "condition_size": WIDTH, "latent_channels": CHANNELS, **changes}
    return class_of(name)(**options)


def batch(height=4, width=2, length=4, batch_size=2):
    """Inputs without pictures; sigma is a whole number of thousandths."""
    generator = torch.Generator().manual_seed(1)
    return {
        "noisy_latents": torch.randn(batch_size, CHANNELS, height, width, generator=generator),
        "sigma": torch.randint(1, 1000, (batch_size,), generator=generator) / 1000,
        "condition": torch.randn(batch_size, length, WIDTH, generator=generator),
        "condition_mask": torch.ones(batch_size, length, dtype=torch.bool),
    }


def pictures(num, height=4, width=2, batch_size=2):
    """Latents of input pictures."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch_size, num, CHANNELS, height, width, generator=generator)


def tokens(latents):
    """A token for each cell."""
    return latents.flatten(2).transpose(1, 2)


def cells(output, height, width):
    """Undo `tokens`, of the first picture in a sequence."""
    return output[:, : height * width].transpose(1, 2).unflatten(2, (height, width))


def flux_by_hand(model, noisy_latents, sigma, condition):
    """FLUX.1: positions from the corner, time from 0 to 1, no pooled text."""
    height, width = noisy_latents.shape[-2:]
    output = model(
        hidden_states=tokens(noisy_latents),
        encoder_hidden_states=condition,
        pooled_projections=torch.zeros(len(sigma), 1),
        timestep=sigma,
        img_ids=torch.tensor([[0.0, i, j] for i in range(height) for j in range(width)]),
        txt_ids=torch.zeros(condition.shape[1], 3),
    ).sample
    return cells(output, height, width)


def sana_by_hand(model, noisy_latents, sigma, condition):
    """Sana: time from 0 to 1000."""
    return model(noisy_latents, condition, timestep=sigma * 1000).sample


def sd3_by_hand(model, noisy_latents, sigma, condition):
    """SD3: time from 0 to 1000, no pooled text."""
    pooled = torch.zeros(len(sigma), 1)
    return model(noisy_latents, condition, pooled, timestep=sigma * 1000).sample


def qwen_image_by_hand(model, noisy_latents, sigma, condition):
    """Qwen-Image: time from 0 to 1, its own positions."""
    height, width = noisy_latents.shape[-2:]
    output = model(
        hidden_states=tokens(noisy_latents),
        encoder_hidden_states=condition,
        timestep=sigma,
        img_shapes=[[(1, height, width)]] * len(sigma),
    ).sample
    return cells(output, height, width)


def sd15_by_hand(model, noisy_latents, sigma, condition):
    """SD1.5: time is a whole number from 0 to 999."""
    return model(noisy_latents, (sigma * 1000).round().long(), condition).sample


BY_HAND = {
    "flux": flux_by_hand,
    "sana": sana_by_hand,
    "sd3": sd3_by_hand,
    "qwen_image": qwen_image_by_hand,
    "sd15": sd15_by_hand,
}


def theirs(head):
    """Diffusers' own model with a head's weights: their attention, their table of positions."""
    model = type(head.model).from_config(head.model.config)
    model.load_state_dict(head.model.state_dict())
    return model.eval()
