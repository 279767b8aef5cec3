"""The codecs: shapes, exact inverses, normalisation, folders of diffusers, the meta device."""

from __future__ import annotations

import json

import pytest
import torch

from qk_lightning.parts.autoencoders.kl import KL
from qk_lightning.parts.autoencoders.pixels import Pixels

SMALL = {"block_out_channels": [8, 16], "latent_channels": 4}


def small_kl(**changes):
    torch.manual_seed(0)
    return KL(**{**SMALL, **changes})


def images(batch=2, size=16):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_kl_default_makes_16_cells_of_24_numbers_from_32_pixels():
    part = KL()
    with torch.no_grad():
        latents = part.encode(images(size=32))
        assert latents.shape == (2, 24, 4, 4)
        assert part.decode(latents).shape == (2, 3, 32, 32)
    assert (part.latent_channels, part.stride) == (24, 8)


@torch.no_grad()
def test_kl_statistics_normalise_each_channel_and_decode_undoes_them():
    part = small_kl()
    raw = part.posterior(images()).mode()
    before = part.decode(part.encode(images()))
    torch.testing.assert_close(part.encode(images()), raw)
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    part.set_statistics(mean, std)
    latents = part.encode(images())
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4))
    torch.testing.assert_close(part.decode(latents), before, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="expected 4 of each"):
        part.set_statistics([0.0], [1.0])


@torch.no_grad()
def test_kl_export_keeps_architecture_weights_and_statistics(tmp_path):
    part = small_kl()
    part.set_statistics([0.1] * 4, [2.0] * 4)
    part.export(tmp_path)
    again = KL(path=str(tmp_path))
    assert again.load_base()
    assert again.latent_channels == 4 and again.stride == 2
    torch.testing.assert_close(again.encode(images()), part.encode(images()))


@torch.no_grad()
def test_kl_reads_a_folder_that_diffusers_saved_with_shift_and_scale(tmp_path):
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        shift_factor=0.5,
        scaling_factor=0.25,
    )
    model.save_pretrained(tmp_path)
    part = KL(path=str(tmp_path))
    part.load_base()
    expected = (model.encode(images()).latent_dist.mode() - 0.5) * 0.25
    torch.testing.assert_close(part.encode(images()), expected)
    torch.testing.assert_close(
        part.decode(expected), model.decode(expected / 0.25 + 0.5).sample, atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors"])
def test_kl_reads_half_precision_files_of_either_name_into_float32(tmp_path, name):
    from safetensors.torch import save_file

    part = small_kl()
    half = {key: value.half() for key, value in part.model.state_dict().items()}
    part.model.save_config(tmp_path)
    save_file(half, tmp_path / name, metadata={"format": "pt"})
    again = KL(path=str(tmp_path))
    again.load_base()
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for key, value in again.model.state_dict().items():
        torch.testing.assert_close(value, half[key].float())


@torch.no_grad()
def test_kl_built_on_meta_equals_kl_built_eagerly(tmp_path):
    part = small_kl()
    part.export(tmp_path)
    with torch.device("meta"):
        again = KL(path=str(tmp_path))
    assert all(p.is_meta for p in again.parameters())
    again.load_base()
    assert all(p.requires_grad for p in again.parameters())
    torch.testing.assert_close(again(images()), part(images()))


@torch.no_grad()
def test_codecs_answer_in_the_precision_they_were_asked_in():
    part = small_kl()
    part.set_statistics([0.1] * 4, [2.0] * 4)
    latents, decoded = part.encode(images()), part.decode(part.encode(images()))
    assert part.encode(images().bfloat16()).dtype == torch.bfloat16
    part.bfloat16()
    half_latents, half_decoded = part.encode(images()), part.decode(latents)
    assert half_latents.dtype == half_decoded.dtype == torch.float32
    torch.testing.assert_close(half_latents, latents, atol=5e-2, rtol=0)
    torch.testing.assert_close(half_decoded, decoded, atol=0.1, rtol=0)
    assert Pixels().bfloat16().encode(images()).dtype == torch.float32


def test_kl_refuses_arguments_that_contradict_the_folder(tmp_path):
    small_kl().export(tmp_path)
    KL(path=str(tmp_path), latent_channels=4)
    with pytest.raises(ValueError, match=r"latent_channels: 7, but .* says 4"):
        KL(path=str(tmp_path), latent_channels=7)


def test_kl_lists_what_does_not_fit(tmp_path):
    from safetensors.torch import load_file, save_file

    small_kl().export(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["stranger"] = state.pop("quant_conv.bias")
    file.unlink()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"(?s)missing quant_conv.bias.*unexpected stranger"):
        KL(path=str(tmp_path)).load_base()


def test_kl_lists_what_does_not_fit_under_the_name_diffusers_gives(tmp_path):
    from safetensors.torch import load_file, save_file

    small_kl().export(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("quant_conv.bias")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing quant_conv.bias"):
        KL(path=str(tmp_path)).load_base()


def test_kl_refuses_another_class_and_groups_that_do_not_divide(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderDC"}))
    with pytest.raises(ValueError, match="AutoencoderDC, expected AutoencoderKL"):
        KL(path=str(tmp_path))
    with pytest.raises(ValueError, match="norm_num_groups: 8 does not divide"):
        KL(block_out_channels=[12, 16])


def test_kl_trains_every_parameter():
    part = small_kl()
    posterior = part.posterior(images())
    pictures = part.decode(part.normalise(posterior.sample()))
    (pictures.square().mean() + 1e-4 * posterior.kl().mean()).backward()
    assert all(p.grad is not None for p in part.parameters())


def test_pixels_round_trip_is_exact():
    pictures = images().double()
    part = Pixels(patch=4, scale=2.0)
    latents = part.encode(pictures)
    assert latents.shape == (2, part.latent_channels, 4, 4) and part.stride == 4
    torch.testing.assert_close(part.decode(latents), pictures, atol=0, rtol=0)
    torch.testing.assert_close(Pixels(patch=2, scale=0.3)(pictures), pictures)
    with pytest.raises(ValueError, match="patch: 0"):
        Pixels(patch=0)
