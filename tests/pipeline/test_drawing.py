"""Calling a pipeline the diffusers way: batches, sizes, generators, outputs, and bad input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qk_lightning.config.errors import ConfigError
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.parts.heads.sd3 import SD3
from qk_lightning.pipeline import QueryKontextPipeline


@pytest.fixture(scope="module")
def pipeline(stage3: RunFolder) -> QueryKontextPipeline:
    return QueryKontextPipeline.from_run(stage3)


def picture(seed: int = 0, width: int = 32, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_prompts_of_different_sizes_and_pictures_are_drawn_as_if_one_by_one(pipeline) -> None:
    prompts = ["a person", "make the shirt green", "a smiling person", ""]
    images = [[], [("source", picture(1))], [("reference", picture(2))], []]
    heights, widths = [32, 48, 32, 32], [32, 32, 16, 32]
    together = pipeline(
        prompts, images=images, height=heights, width=widths, num_images=2, output_type="pt"
    )
    assert [tuple(image.shape) for image in together[::2]] == [
        (3, high, wide) for high, wide in zip(heights, widths, strict=True)
    ]
    for place, prompt in enumerate(prompts):
        alone = pipeline(
            prompt,
            images=images[place],
            height=heights[place],
            width=widths[place],
            num_images=2,
            output_type="pt",
        )
        for number in range(2):
            found = together[2 * place + number]
            torch.testing.assert_close(found, alone[number], rtol=0, atol=2e-4)


def test_pictures_that_all_prompts_share(pipeline) -> None:
    pair = ("reference", picture(2))
    shared = pipeline(["a", "b"], images=[pair], output_type="latent")
    own = pipeline(["a", "b"], images=[[pair], [pair]], output_type="latent")
    assert torch.equal(shared, own)


def test_roles_may_stand_in_pairs_beside_the_pictures_or_in_arguments_of_their_own(
    pipeline, tmp_path: Path
) -> None:
    picture(1).save(tmp_path / "source.png")
    one, two = tmp_path / "source.png", picture(2)
    said = [
        pipeline("a person", [one], [two], seed=3),
        pipeline("a person", images=[("source", one), ("reference", two)], seed=3),
        pipeline("a person", images=[one, two], roles=["source", "reference"], seed=3),
    ]
    assert len({drawn[0].tobytes() for drawn in said}) == 1
    assert said[0][0].tobytes() != pipeline("a person", [two], [one], seed=3)[0].tobytes()


def test_a_picture_of_another_shape_is_cropped_at_its_centre(pipeline) -> None:
    wide = picture(1, width=64)
    centre = wide.crop((16, 0, 48, 32))
    drawn = [pipeline("", [one], output_type="latent") for one in (wide, centre)]
    assert torch.equal(*drawn)
    whole = pipeline("", [wide], width=64, output_type="latent")
    assert whole.shape[-2:] == (4, 8)


def test_a_seed_is_a_generator(pipeline) -> None:
    by_seed = pipeline("a person", seed=7, num_images=2, output_type="latent")
    one = torch.Generator().manual_seed(7)
    assert torch.equal(
        by_seed, pipeline("a person", generator=one, num_images=2, output_type="latent")
    )
    several = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    each = pipeline(["a person"] * 2, generator=several, output_type="latent")
    for place, seed in enumerate((7, 8)):
        alone = pipeline("a person", seed=seed, output_type="latent")[0]
        torch.testing.assert_close(each[place], alone, rtol=0, atol=2e-4)
    going_on = pipeline(["a", "a"], generator=torch.Generator().manual_seed(7), output_type="pt")
    again = pipeline(["a", "a"], seed=7, output_type="pt")
    torch.testing.assert_close(going_on[0], again[0], rtol=0, atol=2e-4)
    assert (going_on[1] - again[1]).abs().max() > 1e-3


def test_every_output_type_is_of_the_same_pictures(pipeline) -> None:
    call = {"prompt": "a person", "num_images": 2}
    pil = [np.asarray(image) for image in pipeline(**call)]
    tensors, arrays = (pipeline(**call, output_type=kind) for kind in ("pt", "np"))
    latents = pipeline(**call, output_type="latent")
    assert tensors.shape == (2, 3, 32, 32) and arrays.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(tensors.permute(0, 2, 3, 1).numpy(), arrays)
    np.testing.assert_allclose(arrays * 255, np.stack(pil), atol=0.51)
    decoded = pipeline.system.autoencoder.decode(latents).clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(decoded.detach(), tensors)


def test_numbers_of_one_call_do_not_stay(pipeline) -> None:
    own = dict(pipeline.system.config.sampling)
    plain = pipeline("a person")[0].tobytes()
    assert pipeline("a person", num_inference_steps=3)[0].tobytes() != plain
    with pytest.raises(ConfigError):
        pipeline("a person", num_inference_steps=3, height=33)
    assert dict(pipeline.system.config.sampling) == own
    assert pipeline("a person")[0].tobytes() == plain


def test_the_bar_counts_steps_of_all_batches_and_can_be_switched_off(pipeline) -> None:
    shown = io.StringIO()
    try:
        pipeline.set_progress_bar_config(disable=False, file=shown, mininterval=0)
        pipeline(["a", "b"], height=[32, 40], guidance_scale=3.0)  # two batches of two steps
        assert "4/4" in shown.getvalue()
        before = shown.getvalue()
        pipeline.set_progress_bar_config(disable=True, file=shown)
        pipeline("a")
        assert shown.getvalue() == before
    finally:
        pipeline.set_progress_bar_config()
    assert not pipeline.system.head._forward_pre_hooks


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"images": [("sauce", picture())]}, ("roles = 'sauce'", "'source'")),
        ({"images": [picture()]}, ("a pair of role and picture", 'roles=["source"]')),
        ({"images": [picture()], "roles": ["source"] * 2}, ("a role for each of the 1",)),
        ({"images": [[]] * 3, "prompt": ["a", "b"]}, ("a list for each of the 2 prompts",)),
        ({"images": picture()}, ("a list of pictures",)),
        ({"sources": [3]}, ("picture = 'int'", "PIL")),
        ({"sources": [picture(), picture()]}, ("one source", "the role reference")),
        ({"height": 36, "width": 31}, ("height = 36", "32 or 40", "width = 31", "24 or 32")),
        ({"width": 3}, ("width = 3", "a multiple of 8", "fix: 8")),
        ({"height": [32], "prompt": ["a", "b"]}, ("height", "one for each of the 2 prompts")),
        ({"height": 32.0}, ("height = 32.0", "pixels")),
        ({"prompt": []}, ("prompt", "a text")),
        ({"prompt": ["a", 3]}, ("prompt", "a text")),
        ({"output_type": "pill"}, ("output_type = 'pill'", "'pil'")),
        ({"generator": [torch.Generator()] * 3}, ("one for each of the 1 pictures",)),
        ({"generator": 3}, ("generator", "torch.Generator")),
        ({"generator": torch.Generator(), "seed": 3}, ("seed = 3", "a generator or a seed")),
    ],
)
def test_bad_input_is_named_before_anything_is_drawn(pipeline, monkeypatch, given, says) -> None:
    monkeypatch.setattr(pipeline.system, "sample", lambda *_: pytest.fail("it drew"))
    with pytest.raises(ConfigError) as caught:
        pipeline(**{"prompt": "a person", **given})
    for words in says:
        assert words in str(caught.value)


def test_a_head_with_channels_says_what_it_has_room_for(pipeline) -> None:
    stride, own = pipeline.system.autoencoder.stride, pipeline.system.head
    sizes = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    head = SD3(latent_channels=4, patch=2, pos_embed_max_size=4, num_image_slots=1, **sizes)
    pipeline.system.head = head  # monkeypatch would take a module's attribute away in the end
    try:
        for given, says in (
            ({"height": 5 * stride}, f"a multiple of {2 * stride} "),
            ({"width": 10 * stride}, f"{8 * stride} or less"),
            ({"references": picture()}, "pictures that the head"),
            ({"sources": [picture(), picture()]}, "pictures that the head"),
        ):
            with pytest.raises(ConfigError, match=says):
                pipeline("a person", **given)
    finally:
        pipeline.system.head = own


def test_a_vlm_that_reads_text_alone_is_given_no_picture(pipeline, monkeypatch) -> None:
    monkeypatch.setattr(pipeline.system.vlm, "reads_images", False, raising=False)
    with pytest.raises(ConfigError, match="reads text alone"):
        pipeline("a person", references=[picture()])


def test_a_single_picture_needs_no_list(pipeline) -> None:
    one = picture()
    pictures = [pipeline("a person", sources=given, seed=1)[0] for given in (one, [one])]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    with pytest.raises(ConfigError, match="a list of pictures"):
        pipeline("a person", sources=3)


def test_a_device_that_is_not_there_is_named_before_weights_load(
    stage3: RunFolder, pipeline, monkeypatch
) -> None:
    monkeypatch.setattr("qk_lightning.systems.base.replay", lambda *_: pytest.fail("it loaded"))
    for call in (lambda: QueryKontextPipeline.from_run(stage3, "abacus"), lambda: pipeline.to("x")):
        with pytest.raises(ConfigError, match=r"a device of this machine .*\n.*use cpu"):
            call()
    assert pipeline.to("cpu").device == torch.device("cpu")
