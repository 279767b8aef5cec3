"""Codecs around diffusers: the model called by hand, its own constants, folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from qk_lightning.parts.autoencoders.dc import DC
from qk_lightning.parts.autoencoders.kl import KL
from qk_lightning.parts.autoencoders.qwen_image import QwenImage
from qk_lightning.parts.autoencoders.tiny import Tiny
from qk_lightning.parts.diffusers_codec import DiffusersCodec

LEVELS = ["ResBlock", "ResBlock", "EfficientViTBlock"]
MEAN, STD = torch.tensor([0.3, -0.2, 0.1, 0.4]), torch.tensor([1.5, 0.5, 2.0, 0.7])


def images(height: int = 16, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(2, 3, height // 8 + 1, width // 8 + 1, generator=generator)
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear").tanh()


def diffusers_dc() -> nn.Module:
    from diffusers import AutoencoderDC

    sizes = {f"{side}_block_out_channels": [8, 16, 16] for side in ("encoder", "decoder")}
    sizes |= {f"{side}_layers_per_block": [1, 1, 1] for side in ("encoder", "decoder")}
    sizes |= {f"{side}_block_types": LEVELS for side in ("encoder", "decoder")}
    sizes |= {f"{side}_qkv_multiscales": [[], [], [5]] for side in ("encoder", "decoder")}
    return AutoencoderDC(latent_channels=4, attention_head_dim=8, scaling_factor=0.41407, **sizes)


def diffusers_qwen() -> nn.Module:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=MEAN.tolist(),
        latents_std=STD.tolist(),
    )


def diffusers_tiny() -> nn.Module:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        scaling_factor=1.3,
        shift_factor=0.2,
    )


def diffusers_kl() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        shift_factor=0.5,
        scaling_factor=0.25,
    )


def per_frame(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)


def encode_qwen(model: nn.Module, pictures: Tensor) -> Tensor:
    raw = model.encode(pictures.unsqueeze(2)).latent_dist.mode()
    return ((raw - per_frame(MEAN)) / per_frame(STD)).squeeze(2)


def decode_qwen(model: nn.Module, latents: Tensor) -> Tensor:
    return model.decode(latents.unsqueeze(2) * per_frame(STD) + per_frame(MEAN)).sample.squeeze(2)


class Case(NamedTuple):
    """A part, the diffusers model that it wraps, and how a pipeline of diffusers calls that."""

    part: type[DiffusersCodec]
    model: Callable[[], nn.Module]
    encode: Callable[[nn.Module, Tensor], Tensor]
    decode: Callable[[nn.Module, Tensor], Tensor]


CASES = {
    "dc": Case(
        DC,
        diffusers_dc,
        lambda model, pictures: model.encode(pictures).latent * 0.41407,
        lambda model, latents: model.decode(latents / 0.41407).sample,
    ),
    "qwen_image": Case(QwenImage, diffusers_qwen, encode_qwen, decode_qwen),
    "tiny": Case(
        Tiny,
        diffusers_tiny,
        lambda model, pictures: (model.encode(pictures).latents - 0.2) * 1.3,
        lambda model, latents: model.decode(latents / 1.3 + 0.2).sample,
    ),
    "kl": Case(
        KL,
        diffusers_kl,
        lambda model, pictures: (model.encode(pictures).latent_dist.mode() - 0.5) * 0.25,
        lambda model, latents: model.decode(latents / 0.25 + 0.5).sample,
    ),
}
EACH = pytest.mark.parametrize("name", CASES)


def saved(name: str, folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = CASES[name].model()
    model.save_pretrained(folder)
    return model


def loaded(name: str, folder: Path, **options: object) -> DiffusersCodec:
    part = CASES[name].part(path=str(folder), **options)
    assert part.load_base()
    return part


@EACH
@torch.no_grad()
def test_it_is_the_diffusers_model_called_by_hand_with_its_own_constants(name, tmp_path):
    model, part, case = saved(name, tmp_path), loaded(name, tmp_path), CASES[name]
    latents = part.encode(images())
    assert (part.latent_channels, part.stride, latents.shape) == (4, 4, (2, 4, 4, 4))
    torch.testing.assert_close(latents, case.encode(model, images()), atol=1e-6, rtol=1e-6)
    decoded = case.decode(model, latents)
    torch.testing.assert_close(part.decode(latents), decoded, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(part(images()), decoded, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part.normalise(part.denormalise(latents)), latents)


@EACH
@torch.no_grad()
def test_a_subfolder_of_a_pipeline_is_read_and_settings_do_not_tell_where(name, tmp_path):
    saved(name, tmp_path / "vae")
    part = loaded(name, tmp_path, subfolder="vae")
    with torch.device("meta"):
        again = CASES[name].part(path=str(tmp_path), subfolder="vae")
    assert all(parameter.is_meta for parameter in again.parameters())
    again.load_base()
    torch.testing.assert_close(again(images()), part(images()))
    assert part.settings() == loaded(name, tmp_path / "vae").settings()
    with pytest.raises(ValueError, match=r"config\.json"):
        CASES[name].part(path=str(tmp_path), subfolder="decoder")


@torch.no_grad()
def test_the_subfolder_of_a_hub_repository_reaches_diffusers(tmp_path, monkeypatch):
    """No hub here: diffusers' own readers are turned to a folder, all else is as with one."""
    from diffusers import AutoencoderDC

    saved("dc", tmp_path / "vae")
    asked = []

    def from_disk(own):
        def read(path, subfolder=None, **options):
            asked.append((path, subfolder))
            return own(str(tmp_path), subfolder=subfolder, **options)

        return read

    for reader in ("load_config", "from_pretrained"):
        monkeypatch.setattr(AutoencoderDC, reader, from_disk(getattr(AutoencoderDC, reader)))
    part = loaded("dc", "lab/pipeline", subfolder="vae")
    monkeypatch.undo()
    assert asked[0] == asked[1] == ("lab/pipeline", "vae")
    torch.testing.assert_close(part(images()), loaded("dc", tmp_path / "vae")(images()))


@EACH
@torch.no_grad()
def test_what_it_exports_gives_the_same_pictures_and_loads_in_diffusers(name, tmp_path):
    saved(name, tmp_path / "first")
    part = loaded(name, tmp_path / "first")
    part.set_statistics(MEAN, STD)
    part.export(tmp_path / "second")
    again = loaded(name, tmp_path / "second")
    torch.testing.assert_close(again.encode(images()), part.encode(images()))
    part.load_folder(tmp_path / "first")
    first = loaded(name, tmp_path / "first")
    if name in ("dc", "tiny"):  # their constants are always in the file
        torch.testing.assert_close(part.encode(images()), first.encode(images()))
    type(part.model).from_pretrained(tmp_path / "second")


@EACH
@torch.no_grad()
def test_statistics_of_raw_latents_make_them_of_unit_variance(name, tmp_path):
    saved(name, tmp_path)
    part = loaded(name, tmp_path)
    raw = part.encode_raw(images())
    part.set_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3), correction=0))
    power = part.encode(images()).square().mean()
    torch.testing.assert_close(power, torch.tensor(1.0), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="expected 4 of each"):
        part.set_statistics([0.0], [1.0])


@EACH
@torch.no_grad()
def test_it_answers_in_the_precision_it_was_asked_in(name, tmp_path):
    saved(name, tmp_path)
    part = loaded(name, tmp_path)
    latents, decoded = part.encode(images()), part(images())
    part.bfloat16()
    half = part.encode(images())
    assert half.dtype == part.decode(half).dtype == torch.float32
    assert (half - latents).norm() < 0.05 * latents.norm()
    assert (part.decode(latents) - decoded).norm() < 0.05 * decoded.norm()


@torch.no_grad()
def test_a_kl_with_statistics_is_scaled_as_sdxls_pipelines_scale_it(tmp_path):
    model, statistics = diffusers_kl(), {"latents_mean": MEAN.tolist(), "latents_std": STD.tolist()}
    model.register_to_config(**statistics, shift_factor=None, scaling_factor=0.5)
    model.save_pretrained(tmp_path)
    part = loaded("kl", tmp_path)
    mean, std = MEAN.view(1, -1, 1, 1), STD.view(1, -1, 1, 1)
    latents = part.encode(images())
    expected = (model.encode(images()).latent_dist.mode() - mean) * 0.5 / std
    torch.testing.assert_close(latents, expected, atol=1e-6, rtol=1e-6)
    decoded = model.decode(latents * std / 0.5 + mean).sample
    torch.testing.assert_close(part.decode(latents), decoded, atol=1e-6, rtol=1e-6)


def test_a_fresh_qwen_codec_has_nothing_that_waits_for_a_second_frame(tmp_path):
    assert not any("time_conv" in name for name, _ in QwenImage().named_parameters())
    saved("qwen_image", tmp_path)
    kept = [name for name, _ in loaded("qwen_image", tmp_path).named_parameters()]
    assert any("time_conv" in name for name in kept)
