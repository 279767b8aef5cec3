"""What every head owes: diffusers' numbers, padding without effect, gradients, checkpointing."""

from __future__ import annotations

import pytest
import torch
from small_heads import BLOCKS, BY_HAND, SMALL, TOKEN_HEADS, WIDTH, batch, make, pictures, theirs

EACH = pytest.mark.parametrize("name", SMALL)


@EACH
@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 2), (3, 5)])
def test_it_equals_diffusers_called_by_hand(name, size):
    head, inputs = make(name), batch(*size)
    plain = {key: inputs[key] for key in ("noisy_latents", "sigma", "condition")}
    expected = BY_HAND[name](theirs(head), **plain)
    assert expected.std() > 1e-3
    torch.testing.assert_close(head(**inputs), expected, atol=1e-6, rtol=0)


@EACH
@torch.no_grad()
def test_padding_changes_nothing(name):
    head, inputs = make(name), batch()
    assert head.masks_padding
    expected = head(**inputs)
    for order in (1, -1):
        rubbish = torch.full((2, 3, WIDTH), float("nan"))
        pieces = [inputs["condition"], rubbish][::order]
        masks = [inputs["condition_mask"], torch.zeros(2, 3, dtype=torch.bool)][::order]
        padded = {"condition": torch.cat(pieces, 1), "condition_mask": torch.cat(masks, 1)}
        torch.testing.assert_close(head(**{**inputs, **padded}), expected, atol=1e-5, rtol=0)


@EACH
@torch.no_grad()
def test_prompts_of_unlike_lengths_are_as_if_alone(name):
    head, inputs = make(name), batch()
    inputs["condition_mask"][0, :2] = False
    both = head(**inputs)
    alone = {key: value[:1] for key, value in inputs.items()}
    short = {key: alone[key][:, 2:] for key in ("condition", "condition_mask")}
    torch.testing.assert_close(both[:1], head(**{**alone, **short}), atol=1e-5, rtol=0)
    inputs["condition"][0, 2] += 1
    assert not torch.allclose(head(**inputs)[0], both[0], atol=1e-5)


@EACH
@torch.no_grad()
def test_a_row_without_any_condition_equals_no_condition_at_all(name):
    head, inputs = make(name), batch()
    inputs["condition_mask"][1] = False
    some = head(**inputs)
    empty = {"condition": torch.zeros(2, 0, WIDTH), "condition_mask": torch.zeros(2, 0).bool()}
    none = head(**{**inputs, **empty})
    assert torch.isfinite(some).all()
    torch.testing.assert_close(some[1], none[1], atol=1e-5, rtol=0)
    assert not torch.allclose(some[0], none[0], atol=1e-5)


@EACH
def test_gradients_reach_the_condition_and_all_that_is_read(name):
    slots = {} if name in TOKEN_HEADS else {"num_image_slots": 2}
    head, inputs = make(name, **slots).requires_grad_(True), batch()
    inputs["condition"].requires_grad_()
    inputs["condition_mask"][0, 0] = False
    given = {"image_latents": pictures(2), "roles": ("reference", "source")}
    given = given if name in TOKEN_HEADS else {**given, "image_latents": pictures(2)}
    head(**inputs, **given).square().sum().backward()
    gradient = inputs["condition"].grad
    assert gradient[0, 1:].any() and gradient.isfinite().all() and not gradient[0, 0].any()
    unread = {id(p) for module in head.unread() for p in module.parameters()}
    for key, value in head.named_parameters():
        assert value.requires_grad is (id(value) not in unread), key
        assert (value.grad is not None) is value.requires_grad, key
        silent = "text_embedder.linear_1.weight" in key  # of the pooled text, which is zero
        assert not value.requires_grad or silent or value.grad.any(), key


@EACH
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    for checkpointing in (False, True):
        head, inputs = make(name, gradient_checkpointing=checkpointing), batch()
        head.train().requires_grad_(True)
        inputs["condition_mask"][0, 0] = False
        head(**inputs).square().sum().backward()
        gradients.append([p.grad for p in head.parameters() if p.requires_grad])
    assert head.model.is_gradient_checkpointing
    for straight, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(straight, recomputed)


@EACH
@torch.no_grad()
def test_inputs_may_come_in_another_precision(name):
    head, inputs = make(name), batch()
    inputs["condition_mask"][0, 0] = False
    expected = head(**inputs)
    half = {k: v.bfloat16() if k == "condition" else v for k, v in inputs.items()}
    torch.testing.assert_close(head(**half), expected, atol=3e-2, rtol=0)
    velocity = head.bfloat16()(**inputs)
    assert velocity.dtype == torch.float32
    torch.testing.assert_close(velocity, expected, atol=1e-1, rtol=0)
    half["noisy_latents"] = inputs["noisy_latents"].bfloat16()
    assert head(**half).dtype == torch.bfloat16


@EACH
def test_its_blocks_can_be_sharded_and_lora_goes_into_what_is_read(name):
    from peft import LoraConfig, inject_adapter_in_model

    head, inputs = make(name), batch()
    assert len(head.shard_units()) == BLOCKS[name]
    expected = head(**inputs)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=list(head.lora_targets)), head)
    torch.testing.assert_close(head(**inputs), expected)
    learns = {key: p for key, p in head.named_parameters() if p.requires_grad}
    assert learns and all(".lora_" in key for key in learns)
    head(**inputs).square().sum().backward()
    assert all(p.grad is not None for p in learns.values())
    last = [key for key in learns if "transformer_blocks.1.attn" in key and "add_q" in key]
    assert bool(last) is (name == "sd3")  # there its gradient is zero, here there is none


@pytest.mark.parametrize("name", ["flux", "sana", "sd3", "qwen_image"])
def test_sizes_that_the_patch_does_not_divide_are_refused(name):
    head = make(name, patch=2)
    assert head.cell_multiple == 2
    assert head(**batch(4, 6)).shape == (2, 5, 4, 6)
    with pytest.raises(ValueError, match=r"noisy_latents: 3 x 4 latent cells, expected multiples"):
        head(**batch(3, 4))
    given = {"image_latents": pictures(1, 3, 4), "roles": ("source",)}
    with pytest.raises(ValueError, match=r"expected multiples of 2|as channels"):
        make(name, patch=2, **({} if name in TOKEN_HEADS else {"num_image_slots": 1}))(
            **batch(4, 4), **given
        )


def test_a_table_of_positions_has_an_end():
    head = make("sd3")
    with pytest.raises(ValueError, match="7 x 2 latent cells, expected 6 or fewer"):
        head(**batch(7, 2))


@torch.no_grad()
def test_a_guidance_distilled_flux_is_told_a_constant():
    config = dict(make("flux").model.config) | {"guidance_embeds": True}
    outputs = []
    for guidance in (1.0, 3.5):
        head = make("flux", guidance_embed=guidance)
        torch.manual_seed(0)
        head.model = type(head.model).from_config(config)
        outputs.append(head(**batch()))
    assert not torch.allclose(*outputs, atol=1e-5)


@EACH
def test_counts_below_their_least_are_refused(name):
    with pytest.raises(ValueError, match="num_attention_heads: 0, expected more than 0"):
        make(name, num_attention_heads=0)
    if name not in TOKEN_HEADS:
        with pytest.raises(ValueError, match="num_image_slots: -1, expected 0 or more"):
            make(name, num_image_slots=-1)


def test_options_that_do_not_fit_each_other_are_refused():
    for name, options, said in (
        ("qwen_image", {"axes_dims_rope": [4, 4, 4]}, "axes_dims_rope"),
        ("sd15", {"block_out_channels": []}, r"block_out_channels: \[\], expected"),
        ("sd15", {"block_out_channels": [6, 16]}, "norm_num_groups: 4 does not divide .6."),
        ("sd15", {"num_attention_heads": 5}, "num_attention_heads: 5 does not divide"),
        ("sd3", {"dual_attention_layers": [2]}, "expected blocks from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=said):
            make(name, **options)
