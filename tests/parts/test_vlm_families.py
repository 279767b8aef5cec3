"""Every VLM but Qwen2.5-VL on a tiny checkpoint: the passes equal transformers' own forward."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.assembly.build import class_of
from qk_lightning.bench.tiny_vlms import MAKERS, NUM_LAYERS, WIDTH, make_tiny_vlm
from qk_lightning.parts.base import load_weights

torch.set_num_threads(1)  # many small operations: threads only get in each other's way
PROMPTS = ["a red hat", "", "blue hair, green eyes and more words"]
NUM_QUERIES = 4
NAMES = [*MAKERS]
SEEING = [name for name in NAMES if name != "causal_lm"]
ALL_LAYERS = tuple(range(NUM_LAYERS + 1))
# (name, images of each prompt)
CASES = [(name, count) for name in NAMES for count in (0, 1, 3) if name in SEEING or not count]
# 4 x larger weights: every layer, image and position counts.
SCALE = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("vlms")
    return {name: make_tiny_vlm(name, root / name) for name in NAMES}


@pytest.fixture
def load(folders):
    def build(name, **options):
        vlm = class_of("vlm", name)(path=str(folders[name]), **options)
        assert vlm.load_base()
        with torch.no_grad():
            for parameter in vlm.parameters():
                parameter.mul_(SCALE if parameter.ndim > 1 else 1)
        return vlm.requires_grad_(False)

    return build


@pytest.fixture
def queries():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, NUM_QUERIES, WIDTH, generator=generator)


def images_for(num_images, size=(24, 16)):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, num_images, 3, *size, generator=generator) * 2 - 1
    return images if num_images else None


def transformers_output(vlm, inputs, queries):
    """One forward over all, positions made up by transformers; placeholder ids become queries."""
    end = torch.full(queries.shape[:2], vlm.end_id)
    ids = torch.cat([inputs.input_ids, end], dim=1)
    mask = torch.cat([inputs.attention_mask, torch.ones_like(end)], dim=1)
    seen = {}
    if inputs.pixel_values is not None and inputs.image_grid_thw is not None:
        types = (ids == vlm.model.config.image_token_id).int()
        seen = {"image_grid_thw": inputs.image_grid_thw, "mm_token_type_ids": types}
    elif inputs.image_size is not None:
        number = len(inputs.pixel_values)
        sizes = torch.tensor([inputs.image_size] * number)
        each = torch.full((len(ids),), number // len(ids))
        seen = {"image_sizes": sizes, "batch_num_images": each}
    if inputs.pixel_values is not None:
        pixels = inputs.pixel_values
        # InternVL takes all tiles in one row.
        seen["pixel_values"] = pixels.flatten(0, 1) if "image" not in str(seen) else pixels
    hook = vlm.model.get_input_embeddings().register_forward_hook(
        lambda _, __, out: torch.cat([out[:, :-NUM_QUERIES], queries], dim=1)
    )
    output = vlm.model.base_model(
        input_ids=ids, attention_mask=mask, output_hidden_states=True, **seen
    )
    hook.remove()
    return output


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "num_images"), CASES)
def test_prefill_and_read_equal_transformers(load, queries, name, num_images):
    vlm = load(name)
    inputs = vlm.prepare(PROMPTS, images_for(num_images))
    assert inputs.attention_mask.sum(dim=1).unique().numel() == 3  # padded, each row otherwise
    given = queries.clone().requires_grad_()
    split = vlm(inputs, given)
    output = transformers_output(vlm, inputs, queries)
    expected = output.last_hidden_state
    close(split.kontext, expected[:, -NUM_QUERIES:])
    close(split.text_states, inputs.prompt_states(expected)[0])
    stacked = vlm(inputs, queries, layers=ALL_LAYERS)
    for index in ALL_LAYERS:
        states = output.hidden_states[index]
        close(stacked.kontext[index], states[:, -NUM_QUERIES:])
        close(stacked.text_states[index], inputs.prompt_states(states)[0])
    gradient = torch.autograd.grad(split.kontext.sin().sum(), given)[0]
    assert gradient.abs().max() > 1e-3
    assert all(parameter.grad is None for parameter in vlm.parameters())
    vlm.requires_grad_(True)  # the joint forward
    joint = vlm(inputs, given)
    close(joint.kontext, split.kontext)
    joint_gradient = torch.autograd.grad(joint.kontext.sin().sum(), given)[0]
    torch.testing.assert_close(joint_gradient, gradient, atol=2e-5, rtol=1e-3)
    close(vlm(inputs, queries, layers=ALL_LAYERS).kontext, stacked.kontext)


@pytest.mark.parametrize(("name", "num_images"), [(n, c) for n, c in CASES if c < 3])
def test_padding_changes_nothing(load, queries, name, num_images):
    vlm = load(name)
    vlm.tokenizer.padding_side = "right"  # as some checkpoints say
    images = images_for(num_images)
    together = vlm(vlm.prepare(PROMPTS, images), queries)
    for row, prompt in enumerate(PROMPTS):
        image = None if images is None else images[row : row + 1]
        alone = vlm(vlm.prepare([prompt], image), queries[row : row + 1])
        torch.testing.assert_close(together.kontext[row], alone.kontext[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SEEING)
def test_every_image_and_its_place_count(load, queries, name):
    vlm = load(name)
    images = images_for(3)
    kontext = vlm(vlm.prepare(PROMPTS, images), queries).kontext
    for changed in (images.flip(1), images.roll(1, 0), images * 0.5):
        other = vlm(vlm.prepare(PROMPTS, changed), queries).kontext
        assert (other - kontext).abs().amax(dim=(1, 2)).min() > 1e-3


def test_deepstack_counts_where_the_images_are(load, queries):
    vlm = load("qwen3_vl")
    inputs = vlm.prepare(PROMPTS, images_for(1))
    embedded = vlm.embed_prefix(inputs)
    assert len(embedded.image_layers) == 2
    assert embedded.followed_by(queries).image_mask[:, -NUM_QUERIES:].sum() == 0
    kontext = vlm(inputs, queries).kontext
    with torch.no_grad():
        vlm.model.model.visual.deepstack_merger_list[1].linear_fc2.weight.zero_()
    assert (vlm(inputs, queries).kontext - kontext).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_whole_and_talks(load, name):
    vlm = load(name).requires_grad_(True)
    images = images_for(1) if name in SEEING else None
    inputs = vlm.prepare(PROMPTS, images)
    loss = vlm.language_loss(inputs, ["red", "", "a blue hat"])
    loss.backward()
    silent = ("mask_token", "image_newline", "post_layernorm", "embeddings.cls_token")
    for parameter_name, parameter in vlm.named_parameters():
        if not any(word in parameter_name for word in silent):
            assert parameter.grad is not None, parameter_name
    vlm.requires_grad_(False)
    first = vlm.prepare(PROMPTS[2:], None if images is None else images[2:])
    if name == "causal_lm":
        ids = vlm.model.generate(
            first.input_ids, attention_mask=first.attention_mask, max_new_tokens=4, do_sample=False
        )[0, first.input_ids.shape[1] :]
        assert vlm.answer(first, 4) == [vlm.tokenizer.decode(ids, skip_special_tokens=True)]
    assert vlm.answer(inputs, 3)[2] == vlm.answer(first, 3)[0]


@pytest.mark.parametrize("name", NAMES)
def test_built_without_weights_it_is_the_same_once_loaded(load, folders, queries, name):
    with torch.device("meta"):
        other = class_of("vlm", name)(path=str(folders[name]))
    assert other.hidden_size == WIDTH and other.num_layers == NUM_LAYERS
    assert all(parameter.is_meta for parameter in other.parameters())
    assert len(other.shard_units()) >= NUM_LAYERS
    vlm = load(name)
    load_weights(other, vlm.state_dict())
    inputs = vlm.prepare(PROMPTS, images_for(1) if name in SEEING else None)
    assert torch.equal(other.requires_grad_(False)(inputs, queries).kontext,
                       vlm(inputs, queries).kontext)  # fmt: skip
    tables = dict(vlm.named_buffers())
    for key, buffer in other.to(torch.bfloat16).named_buffers():
        assert torch.equal(buffer, tables[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_its_export_is_a_folder_for_path(load, queries, name, tmp_path):
    vlm = load(name)
    vlm.export(tmp_path)
    again = class_of("vlm", name)(path=str(tmp_path))
    assert again.load_base()
    inputs = again.prepare(PROMPTS, images_for(1) if name in SEEING else None)
    again.requires_grad_(False)
    assert torch.equal(again(inputs, queries).kontext, vlm(inputs, queries).kontext)


@pytest.mark.parametrize("name", ["qwen3_vl", "causal_lm"])
def test_checkpointed_layers_give_the_same_states_of_every_layer(load, queries, name):
    plain, checkpointed = load(name), load(name, gradient_checkpointing=True)
    inputs = plain.prepare(PROMPTS)
    gradients = []
    for vlm in (plain, checkpointed):
        given = queries.clone().requires_grad_()
        output = vlm.requires_grad_(True)(inputs, given, layers=(1, NUM_LAYERS))
        gradients.append(torch.autograd.grad(output.kontext.sin().sum(), given)[0])
        close(output.kontext, plain(inputs, queries, layers=(1, NUM_LAYERS)).kontext)
    close(*gradients)
