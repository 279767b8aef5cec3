"""The Flux head; what it shares with the others is in test_heads.py."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.parts.heads.flux import Flux
from qk_lightning.parts.heads.positions import image_positions

SMALL = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": [4, 6, 6],
    "condition_size": 12,
}


def make(**changes):
    torch.manual_seed(0)
    return Flux(**{**SMALL, "latent_channels": 5, **changes})


def batch(height=3, width=2, length=4, batch_size=2):
    generator = torch.Generator().manual_seed(1)
    return {
        "noisy_latents": torch.randn(batch_size, 5, height, width, generator=generator),
        "sigma": torch.rand(batch_size, generator=generator),
        "condition": torch.randn(batch_size, length, 12, generator=generator),
        "condition_mask": torch.ones(batch_size, length, dtype=torch.bool),
    }


def pictures(num, height=3, width=2):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, num, 5, height, width, generator=generator)


@torch.no_grad()
def test_equals_diffusers_called_by_hand():
    head, inputs, image_latents = make(positions="shared"), batch(), pictures(1)
    tokens = torch.cat([inputs["noisy_latents"], image_latents[:, 0]], dim=2)
    ids = torch.tensor([[0, i, j] for _ in range(2) for i in range(3) for j in range(2)])
    expected = head.model(
        hidden_states=tokens.flatten(2).transpose(1, 2),
        encoder_hidden_states=inputs["condition"],
        pooled_projections=torch.zeros(2, 1),
        timestep=inputs["sigma"],
        img_ids=ids.float(),
        txt_ids=torch.zeros(4, 3),
    ).sample[:, :6]
    velocity = head(**inputs, image_latents=image_latents, roles=("source",))
    expected = expected.transpose(1, 2).unflatten(2, (3, 2))
    torch.testing.assert_close(velocity, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_only_tokens_that_are_not_masked_count():
    head, inputs = make(), batch()
    inputs["condition_mask"][0, 2] = False
    expected = head(**inputs)
    inputs["condition"][0, 2] += 100
    torch.testing.assert_close(head(**inputs), expected, atol=1e-5, rtol=0)
    inputs["condition"][0, 1] += 1
    assert not torch.allclose(head(**inputs)[0], expected[0], atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_reach_the_condition_and_every_block(masked):
    head, inputs = make(), batch()
    inputs["condition"].requires_grad_()
    inputs["condition_mask"][0, 0] = not masked
    head(**inputs, image_latents=pictures(1), roles=("reference",)).square().sum().backward()
    assert inputs["condition"].grad[0, 1:].any() and torch.isfinite(inputs["condition"].grad).all()
    assert bool(inputs["condition"].grad[0, 0].any()) is not masked
    assert all(p.grad is not None for p in head.parameters())


@torch.no_grad()
def test_pictures_roles_and_their_order_change_the_velocity():
    head, inputs, image_latents = make(), batch(), pictures(2)
    without = head(**inputs)
    outputs = [
        without,
        head(**inputs, image_latents=image_latents, roles=("source", "reference")),
        head(**inputs, image_latents=image_latents, roles=("reference", "source")),
        head(**inputs, image_latents=image_latents, roles=("reference", "reference")),
    ]
    for place, one in enumerate(outputs):
        assert one.shape == inputs["noisy_latents"].shape
        for other in outputs[:place]:
            assert not torch.allclose(one, other, atol=1e-5)


@torch.no_grad()
def test_shape_follows_latents_that_are_not_square_and_patches_of_cells():
    inputs = batch(height=4, width=6)
    assert make()(**inputs).shape == (2, 5, 4, 6)
    head = make(patch=2)
    velocity = head(**inputs, image_latents=pictures(1, 4, 2), roles=("source",))
    assert velocity.shape == (2, 5, 4, 6)
    assert head.model.config.in_channels == 20


def test_a_source_stands_below_zero_and_a_target_at_zero():
    ids = image_positions((3, 4), (5, 2), ("reference", "source"))
    assert ids[:12].min() == 0 and (ids[22:, 1:] < 0).all()


def test_shared_positions_put_all_pictures_on_the_targets_grid():
    ids = image_positions((2, 2), (2, 2), ("source", "reference"), "shared")
    assert ids[:4].tolist() == ids[4:8].tolist() == ids[8:].tolist()
    assert ids[:4].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]


@torch.no_grad()
def test_references_stand_in_the_order_given_and_sources_below_zero():
    ids = image_positions((2, 3), (2, 3), ("reference", "source", "reference"))
    assert ids[6].tolist() == [0, 2, 3] and ids[12].tolist() == [0, -1, -1]
    assert ids[18].tolist() == [0, 4, 6]


def test_what_cannot_work_is_refused():
    head, inputs = make(), batch()
    with pytest.raises(ValueError, match="give one for each"):
        head(**inputs, image_latents=pictures(2), roles=("source",))
    with pytest.raises(ValueError, match="2 sources"):
        head(**inputs, image_latents=pictures(2), roles=("source", "source"))
    with pytest.raises(ValueError, match=r"\['mask'\], expected source or reference"):
        head(**inputs, image_latents=pictures(1), roles=("mask",))
    with pytest.raises(ValueError, match="axes_dims_rope"):
        make(axes_dims_rope=[4, 4, 4])


@torch.no_grad()
def test_folders_of_diffusers_and_exports_load_on_meta_too(tmp_path):
    from diffusers import FluxTransformer2DModel

    arguments = {**SMALL, "joint_attention_dim": 12, "in_channels": 20}
    del arguments["condition_size"]
    model = FluxTransformer2DModel(**arguments, pooled_projection_dim=6)
    model.half().save_pretrained(tmp_path / "theirs")
    with torch.device("meta"):
        head = Flux(path=str(tmp_path / "theirs"), patch=2, latent_channels=5)
    assert head.load_base() and head.condition_size == 12
    head.export(tmp_path / "ours")
    again = Flux(path=str(tmp_path / "ours"), patch=2, latent_channels=5)
    again.load_base()
    inputs = batch(height=2, width=4)
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    torch.testing.assert_close(again(**inputs), head(**inputs))
    with pytest.raises(ValueError, match="num_layers: 3, but .* says 1"):
        Flux(path=str(tmp_path / "ours"), patch=2, num_layers=3, latent_channels=5)
    with pytest.raises(ValueError, match="reads 20 channels a token"):
        Flux(path=str(tmp_path / "ours"), latent_channels=5)


def test_lora_goes_into_every_attention_of_both_kinds_of_blocks():
    from peft import LoraConfig, inject_adapter_in_model

    head, inputs = make(), batch()
    expected = head(**inputs)
    config = LoraConfig(r=2, target_modules=list(Flux.lora_targets))
    inject_adapter_in_model(config, head)
    torch.testing.assert_close(head(**inputs), expected)
    names = [name for name, p in head.named_parameters() if p.requires_grad]
    assert len(names) == 2 * (8 * 1 + 3 * 2) and all("lora_" in name for name in names)
    head(**inputs).square().sum().backward()
    assert all(p.grad is not None for p in head.parameters() if p.requires_grad)
