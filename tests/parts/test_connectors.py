"""Connectors: padding changes nothing, who sees whom, where they start, everything learns."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.parts.connectors.bidirectional import rotary_table, rotate
from qk_lightning.parts.connectors.enc_proj import EncProj
from qk_lightning.parts.connectors.identity import Identity
from qk_lightning.parts.connectors.linear import Linear
from qk_lightning.parts.connectors.mlp import MLP
from qk_lightning.parts.connectors.proj_enc import ProjEnc
from qk_lightning.parts.connectors.resampler import Resampler

WIRED = {"input_size": 32, "output_size": 24}
ENCODER = {"num_layers": 2, "num_heads": 2, "init_std": 0.3}
MAKE = {
    "mlp": lambda **more: MLP(**more, **WIRED),
    "linear": lambda **more: Linear(**more, **WIRED),
    "enc_proj": lambda **more: EncProj(**ENCODER, **more, **WIRED),
    "enc_proj, own width": lambda **more: EncProj(**ENCODER, width=16, **more, **WIRED),
    "proj_enc": lambda **more: ProjEnc(**ENCODER, **more, **WIRED),
    "proj_enc, own width": lambda **more: ProjEnc(**ENCODER, width=16, **more, **WIRED),
}
ENCODERS = [name for name in MAKE if "enc" in name]


def make(name, **more):
    torch.manual_seed(0)
    return MAKE[name](**more)


def resampler(**more):
    torch.manual_seed(0)
    return Resampler(**{"num_tokens": 3, **ENCODER, **WIRED, **more})


EACH = pytest.mark.parametrize("name", list(MAKE))
EACH_ENCODER = pytest.mark.parametrize("name", ENCODERS)


@EACH
@pytest.mark.parametrize("side", ["left", "right", "between"])
@torch.no_grad()
def test_padding_changes_nothing_wherever_it_is(name, side):
    part, states = make(name), torch.randn(2, 6, 32)
    expected = part(states, torch.ones(2, 6, dtype=torch.bool))
    rubbish = torch.full((2, 3, 32), float("nan"))
    cut = {"left": 0, "right": 6, "between": 4}[side]
    padded = torch.cat([states[:, :cut], rubbish, states[:, cut:]], dim=1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, cut : cut + 3] = False
    output = part(padded, mask)
    torch.testing.assert_close(output[mask], expected.flatten(0, 1), atol=1e-5, rtol=1e-5)
    assert not output[~mask].any()


@EACH
def test_a_row_of_nothing_but_padding_gives_zeros_and_finite_gradients(name):
    part, states = make(name), torch.randn(2, 4, 32, requires_grad=True)
    mask = torch.tensor([[True] * 4, [False] * 4])
    output = part(states, mask)
    output.square().sum().backward()
    assert not output[1].any() and not states.grad[1].any()
    assert all(torch.isfinite(p.grad).all() for p in part.parameters())
    assert all(p.grad.any() for n, p in part.named_parameters() if "to_k.bias" not in n)


@EACH
def test_states_may_come_in_another_precision(name):
    part, states = make(name), torch.randn(2, 4, 32).bfloat16().requires_grad_()
    mask = torch.tensor([[True] * 4, [False, True, True, True]])
    output = part(states, mask)
    torch.testing.assert_close(output, part(states.float(), mask))
    output.sum().backward()
    assert output.dtype == torch.float32 and states.grad.dtype == torch.bfloat16
    assert part.bfloat16()(states.float(), mask).dtype == torch.bfloat16


@EACH_ENCODER
@torch.no_grad()
def test_an_encoder_sees_later_tokens_and_their_order(name):
    part, states = make(name), torch.randn(1, 5, 32)
    mask = torch.ones(1, 5, dtype=torch.bool)
    expected, other = part(states, mask), states.clone()
    other[:, 4] += 1
    assert not torch.allclose(part(other, mask)[:, 0], expected[:, 0], atol=1e-4)
    swapped = part(states[:, [0, 2, 1, 3, 4]], mask)
    assert not torch.allclose(swapped[:, 0], expected[:, 0], atol=1e-4)


@pytest.mark.parametrize("width", [None, 16])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_parameters_are_those_of_the_closed_form(num_layers, width):
    inner, outer, more = 32, 24, {"num_layers": num_layers, "num_heads": 2, "width": width}
    with torch.device("meta"):
        parts = [kind(**more, **WIRED) for kind in (EncProj, ProjEnc, Resampler)]
        counts = [sum(p.numel() for p in part.parameters()) for part in parts]

    def blocks(size):
        return num_layers * (16 * size**2 + 5 * size + 2 * size // 2)

    size = width or inner
    entry = inner * size + size if width else 0
    enc_proj = entry + blocks(size) + size * outer + outer**2 + 3 * outer
    resampled = entry + 64 * size + num_layers * (16 * size**2 + 3 * size) + size * outer
    size = width or outer
    leave = size * outer + outer if width else 0
    proj_enc = inner * size + size**2 + 2 * size + blocks(size) + leave + outer
    assert counts == [enc_proj, proj_enc, resampled + 2 * outer]


@pytest.mark.parametrize("kind", [EncProj, ProjEnc])
@torch.no_grad()
def test_an_encoder_starts_as_the_reference_does(kind):
    part = kind(num_layers=1, output_gain=5.5**0.5, input_size=128, output_size=128)
    block = part.blocks[0]
    assert part.blocks.head_size == 64
    assert abs(block.gate.weight.std().item() - 0.014) < 0.001
    assert not block.to_q.bias.any()


@pytest.mark.parametrize("name", [*ENCODERS, "linear", "resampler"])
@torch.no_grad()
def test_the_output_norm_starts_at_its_gain(name):
    more = {"output_norm": True} if name == "linear" else {}
    gain = 5.5**0.5
    maker = resampler if name == "resampler" else lambda **more: make(name, **more)
    part = maker(output_gain=gain, **more)
    output = part(torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool))
    power = output.square().mean(-1)
    torch.testing.assert_close(power, torch.full_like(power, 5.5), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", [*ENCODERS, "resampler"])
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    for checkpointing in (False, True):
        maker = resampler if name == "resampler" else lambda **more: make(name, **more)
        part = maker(gradient_checkpointing=checkpointing)
        torch.manual_seed(1)
        part(torch.randn(2, 4, 32), torch.ones(2, 4, dtype=torch.bool)).square().sum().backward()
        gradients.append([p.grad for p in part.parameters()])
    for straight, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(straight, recomputed)


@pytest.mark.parametrize("name", [*MAKE, "resampler"])
@torch.no_grad()
def test_built_on_meta_equals_built_eagerly(name):
    maker = resampler if name == "resampler" else lambda: make(name)
    part = maker()
    with torch.device("meta"):
        again = maker()
    again.load_state_dict(part.state_dict(), assign=True)
    states, mask = torch.randn(1, 3, 32), torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(again(states, mask), part(states, mask))


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def product(first, second):
        positions = torch.tensor([[first], [second]])
        cos, sin = rotary_table(positions, 8, 100.0, torch.float64)
        return (rotate(q, cos[:1], sin[:1]) * rotate(k, cos[1:], sin[1:])).sum()

    torch.testing.assert_close(product(0, 3), product(5, 8), atol=1e-5, rtol=1e-5)
    assert abs(product(0, 3) - product(0, 4)) > 1e-3


def test_mlp_depth_width_and_output_gain():
    part = MLP(num_layers=3, hidden_size=48, output_norm=True, output_gain=2.0, **WIRED)
    output = part(torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool))
    rms = output.square().mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.full((2, 5), 2.0), rtol=1e-2, atol=0)
    assert [layer.out_features for layer in part.layers if hasattr(layer, "out_features")] == [
        48,
        48,
        24,
    ]


def test_options_that_cannot_work_or_have_no_effect_are_told():
    with pytest.warns(UserWarning, match="output_gain has no effect"):
        MLP(output_gain=2.0, **WIRED)
    with pytest.raises(ValueError, match="num_layers: 0"):
        MLP(num_layers=0, **WIRED)
    with pytest.warns(UserWarning, match="output_gain has no effect"):
        Linear(output_gain=2.0, **WIRED)
    for kind in (EncProj, ProjEnc, Resampler):
        with pytest.raises(ValueError, match="num_layers: 0"):
            kind(num_layers=0, **WIRED)
        with pytest.raises(ValueError, match="num_heads: 5 does not split"):
            kind(num_heads=5, **WIRED)
    with pytest.raises(ValueError, match="num_tokens: 0"):
        Resampler(num_tokens=0, **WIRED)
    with pytest.raises(ValueError, match="32 is not the condition's 24.*condition_size=32"):
        Identity(**WIRED)


@torch.no_grad()
def test_a_residual_connector_starts_as_the_identity():
    part, states = MLP(residual=True, input_size=8, output_size=8), torch.randn(2, 3, 8)
    mask = torch.tensor([[True] * 3, [False, True, True]])
    torch.testing.assert_close(part(states, mask), states * mask[..., None])


@pytest.mark.parametrize(
    "options", [{"output_size": 24}, {"output_size": 32, "output_norm": True}, {"num_layers": 0}]
)
def test_a_connector_that_cannot_be_the_identity_is_refused(options):
    options = {"residual": True, "input_size": 32, "output_size": 32, **options}
    with pytest.raises(ValueError, match="residual|num_layers"):
        MLP(**options)
