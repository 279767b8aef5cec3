"""The linear codec: principal components in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qk_lightning.parts.autoencoders.linear import Linear


def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(64, 3, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")


def fitted(latent_channels: int) -> Linear:
    codec = Linear(patch=4, latent_channels=latent_channels)
    codec.fit_components(pictures())
    return codec


@torch.no_grad()
def test_all_components_give_the_pictures_back():
    images = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    codec = Linear(patch=4, latent_channels=48)
    codec.fit_components(images)
    torch.testing.assert_close(codec(images), images, atol=1e-4, rtol=0)


@torch.no_grad()
def test_latents_have_unit_variance_and_no_correlation():
    cells = fitted(6).encode(pictures()).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(torch.cov(cells.T), torch.eye(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(cells.mean(0), torch.zeros(6), atol=1e-4, rtol=0)


@torch.no_grad()
def test_more_components_are_nearer():
    errors = [(fitted(n)(pictures()) - pictures()).square().mean().item() for n in (1, 4, 12)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 4


@torch.no_grad()
def test_a_folder_brings_its_sizes(tmp_path: Path):
    codec = fitted(6)
    codec.export(tmp_path)
    loaded = Linear(path=str(tmp_path))
    assert loaded.load_base() and (loaded.stride, loaded.latent_channels) == (4, 6)
    torch.testing.assert_close(loaded(pictures()), codec(pictures()))


def test_too_many_components_are_refused():
    with pytest.raises(ValueError, match="latent_channels: 49, expected 1 to 48"):
        Linear(patch=4, latent_channels=49)
