"""Tokens that were read: drawn as they are, changed, and what cannot be done with them."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from qk_lightning.config.errors import ConfigError
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.pipeline import QueryKontextPipeline

PROMPTS = ["a person with red hair", "a smiling person"]


@pytest.fixture(scope="module")
def pipeline(stage3: RunFolder) -> QueryKontextPipeline:
    return QueryKontextPipeline.from_run(stage3)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_tokens_as_they_were_read_draw_what_the_prompts_draw(pipeline, scale) -> None:
    source = [Image.new("RGB", (32, 32), "red")]
    asked = pipeline(PROMPTS, source, seed=3, guidance_scale=scale, output_type="latent")
    tokens = pipeline.read(PROMPTS, source)
    drawn = pipeline.draw(tokens, seed=3, guidance_scale=scale, output_type="latent")
    assert torch.equal(asked, drawn)


def test_changed_tokens_draw_another_picture_and_swapped_ones_the_other_s(pipeline) -> None:
    tokens = pipeline.read(PROMPTS)
    assert tokens.num_kontext == 2 and tokens.kontext.shape[0] == 2
    plain = pipeline.draw(tokens, output_type="latent")
    for changed in (tokens.swapped(1), tokens.without(0), tokens.only("text")):
        assert not torch.equal(pipeline.draw(changed, output_type="latent"), plain)
    alone = tokens.only("kontext")
    swapped = pipeline.draw(alone.swapped(), output_type="latent")
    assert torch.equal(swapped, pipeline.draw(alone, output_type="latent").flip(0))
    assert torch.equal(tokens.swapped(0).kontext[0, 1], tokens.kontext[0, 1])
    assert torch.equal(tokens.swapped(0).kontext[0, 0], tokens.kontext[1, 0])
    assert torch.equal(tokens.without(-1).kontext, tokens.kontext[:, :1])


def test_similarity_is_1_with_itself_and_less_with_another(pipeline) -> None:
    tokens = pipeline.read([*PROMPTS, PROMPTS[0]])
    for part in ("kontext", "text"):
        found = tokens.similarity(part)
        torch.testing.assert_close(found.diagonal(), torch.ones(3))
        assert found[0, 2] > 0.9999 > found[0, 1]


def test_what_cannot_be_done_with_tokens_is_said(pipeline) -> None:
    tokens = pipeline.read(PROMPTS)
    wrong = {
        "places": [lambda: tokens.without(2), lambda: tokens.swapped("0"),
                   lambda: tokens.only("kontext").without(0, 1)],
        "part": [lambda: tokens.only("prompt"), lambda: tokens.only("text").similarity()],
        "seed": [lambda: pipeline.draw(tokens, seed=-1)],
        "num_inference_steps": [lambda: pipeline.draw(tokens, num_inference_steps=0)],
        "output_type": [lambda: pipeline.draw(tokens, output_type="png")],
    }  # fmt: skip
    for key, calls in wrong.items():
        for call in calls:
            with pytest.raises(ConfigError) as caught:
                call()
            assert caught.value.problems[0].key == key
