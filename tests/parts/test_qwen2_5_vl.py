"""The VLM part on a small random checkpoint: modes agree, with each other and transformers."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from qk_lightning.parts.vlms.patches import PatchSettings, patchify
from qk_lightning.parts.vlms.qwen2_5_vl import Qwen25VL
from qk_lightning.parts.vlms.small import make_small_vlm

torch.set_num_threads(1)  # many small operations: threads only get in each other's way
PROMPTS = ["a red hat", "", "blue hair, green eyes and more words", "two people"]
NUM_QUERIES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    texts = [f"a portrait with {c} hair and a {c} hat" for c in ("red", "blue", "green")]
    return make_small_vlm(
        tmp_path_factory.mktemp("vlm"), texts, hidden_size=64, num_layers=2, vision_hidden=32
    )


@pytest.fixture
def vlm(folder):
    vlm = Qwen25VL(path=str(folder))
    assert vlm.load_base()
    with torch.no_grad():  # larger weights: every layer, image and position counts
        for parameter in vlm.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return vlm.requires_grad_(False)


@pytest.fixture
def queries():
    return torch.randn(4, NUM_QUERIES, 64, generator=torch.Generator().manual_seed(0))


def images_for(num_images, size=32):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, num_images, 3, size, size, generator=generator) * 2 - 1
    return images if num_images else None


def gradient(function, queries):
    queries = queries.clone().requires_grad_()
    output = function(queries)
    weight = torch.randn(output.kontext.shape, generator=torch.Generator().manual_seed(2))
    return output, torch.autograd.grad((output.kontext * weight).sum(), queries)[0]


def transformers_states(vlm, inputs, queries):
    """Placeholder ids, swapped by a hook, with transformers' own positions of the whole."""
    ids = torch.cat([inputs.input_ids, torch.full((4, NUM_QUERIES), 6)], dim=1)
    mask = torch.cat([inputs.attention_mask, torch.ones(4, NUM_QUERIES, dtype=torch.long)], dim=1)
    types = (ids == vlm.model.config.image_token_id).int()
    grid = inputs.image_grid_thw
    positions, _ = vlm.model.model.get_rope_index(
        ids, types, image_grid_thw=grid, attention_mask=mask
    )
    hook = vlm.model.get_input_embeddings().register_forward_hook(
        lambda _, __, out: torch.cat([out[:, :-NUM_QUERIES], queries], dim=1)
    )
    states = vlm.model.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        pixel_values=inputs.pixel_values,
        image_grid_thw=grid,
        mm_token_type_ids=types,
    ).last_hidden_state
    hook.remove()
    return states


@pytest.mark.parametrize("num_images", [0, 1, 2])
def test_split_equals_joint_and_transformers(vlm, queries, num_images):
    inputs = vlm.prepare(PROMPTS, images_for(num_images))
    split, split_gradient = gradient(lambda q: vlm(inputs, q), queries)
    vlm.requires_grad_(True)
    joint, joint_gradient = gradient(lambda q: vlm(inputs, q), queries)
    expected = transformers_states(vlm, inputs, queries)
    assert split_gradient.abs().max() > 1e-2
    torch.testing.assert_close(split_gradient, joint_gradient, atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(split.kontext, joint.kontext, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(split.text_states, joint.text_states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(joint.kontext, expected[:, -NUM_QUERIES:], atol=1e-5, rtol=1e-5)
    text, mask = inputs.prompt_states(expected)
    torch.testing.assert_close(joint.text_states, text, atol=1e-5, rtol=1e-5)
    assert torch.equal(joint.text_mask, mask)


@pytest.mark.parametrize("num_images", [0, 1])
def test_padding_changes_nothing(vlm, queries, num_images):
    images = images_for(num_images)
    together = vlm(vlm.prepare(PROMPTS, images), queries)
    for row, prompt in enumerate(PROMPTS):
        image = None if images is None else images[row : row + 1]
        alone = vlm(vlm.prepare([prompt], image), queries[row : row + 1])
        torch.testing.assert_close(together.kontext[row], alone.kontext[0], atol=1e-5, rtol=1e-4)
        length = int(alone.text_mask.sum())
        assert int(together.text_mask[row].sum()) == length
        states = together.text_states[row]
        if length:
            torch.testing.assert_close(states[-length:], alone.text_states[0], atol=1e-5, rtol=1e-4)
        assert torch.all(states[: len(states) - length] == 0)


def test_text_states_are_the_prompts_tokens(vlm):
    inputs = vlm.prepare(["a red hat", "x <|image_pad|><|im_end|> y"])
    for row, prompt in enumerate(["a red hat", "x <|image_pad|><|im_end|> y"]):
        ids = inputs.input_ids[row][inputs.prompt_mask[row]]
        assert vlm.tokenizer.decode(ids) == prompt
        assert vlm.model.config.image_token_id not in ids
    text = vlm.tokenizer.decode(inputs.input_ids[0][inputs.attention_mask[0].bool()])
    assert text == "<|im_start|>user\na red hat<|im_end|>\n<|im_start|>assistant\n"


def test_empty_prompts_and_no_queries(vlm):
    output = vlm(vlm.prepare(["", ""]))
    assert output.text_states.shape == (2, 1, 64)
    assert not output.text_mask.any()
    assert not output.text_states.any()
    assert output.kontext.shape == (2, 0, 64)


def test_frozen_prefix_saves_no_graph(vlm):
    def saved_shapes(prompts, keep):
        shapes = []
        with saved_tensors_hooks(lambda t: shapes.append(t.shape) or t, lambda t: t):
            keep(vlm.prepare(prompts, images_for(1)[: len(prompts)]))
        return shapes

    queries = torch.randn(1, NUM_QUERIES, 64, requires_grad=True)
    assert saved_shapes(["a red hat"], lambda inputs: vlm.prefill(inputs)) == []
    assert not vlm.prefill(vlm.prepare(["a red hat"])).text_states.requires_grad
    short = saved_shapes(["a"], lambda inputs: vlm(inputs, queries))
    long = saved_shapes(["a red hat " * 9], lambda inputs: vlm(inputs, queries))
    assert len(short) == len(long)


def test_a_prefix_can_be_read_twice(vlm, queries):
    prefix = vlm.prefill(vlm.prepare(PROMPTS, images_for(1)))
    first = vlm.read(prefix, queries)
    assert prefix.cache.get_seq_length() == prefix.attention_mask.shape[1]
    assert torch.equal(first, vlm.read(prefix, queries))
    fewer = vlm.read(prefix, queries[:, :2])
    torch.testing.assert_close(fewer, first[:, :2], atol=1e-5, rtol=1e-4)


def test_lora_runs_the_joint_forward(vlm, queries, monkeypatch):
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), vlm.model)
    learned = {n: p for n, p in vlm.named_parameters() if p.requires_grad}
    assert learned
    assert all("lora_" in name for name in learned)
    with torch.no_grad():
        for parameter in learned.values():
            parameter.normal_(std=0.1)
    inputs = vlm.prepare(PROMPTS, images_for(1))
    with pytest.raises(ValueError, match="holds no gradient"):
        vlm(inputs, queries, vlm.prefill(inputs))
    with pytest.raises(ValueError, match="merge"):
        vlm.export("nowhere")
    weight = torch.randn(4, NUM_QUERIES, 64)
    ours = torch.autograd.grad(
        (vlm(inputs, queries).kontext * weight).sum(), list(learned.values())
    )
    states = transformers_states(vlm, inputs, queries)[:, -NUM_QUERIES:]
    plain = torch.autograd.grad((states * weight).sum(), list(learned.values()))
    for own, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-3)


def test_gradient_checkpointing_keeps_outputs_and_gradients(folder, queries):
    gradients, outputs = [], []
    for checkpointing in (False, True):
        vlm = Qwen25VL(path=str(folder), gradient_checkpointing=checkpointing)
        vlm.load_base()
        inputs = vlm.prepare(PROMPTS, images_for(1))
        output = vlm(inputs, queries).kontext
        output.sin().sum().backward()
        gradients.append([p.grad for p in vlm.parameters() if p.grad is not None])
        vlm.requires_grad_(False)  # checkpointed layers in training mode would drop the cache
        outputs += [output, vlm(inputs, queries).kontext]
        loss = vlm.language_loss(inputs, ["yes"] * 4)
        assert vlm.answer(inputs, 3) == vlm.answer(inputs, 3)
        outputs.append(loss.expand(4, NUM_QUERIES, 64))
    for other in outputs[1:2] + outputs[3:5]:
        torch.testing.assert_close(outputs[0], other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs[2], outputs[5])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-5, rtol=1e-3)


def test_long_prompts_are_cut_with_one_warning(folder):
    vlm = Qwen25VL(path=str(folder), max_prompt_tokens=4)
    with pytest.warns(UserWarning, match="1 of 2 prompts are cut to 4 tokens") as caught:
        inputs = vlm.prepare(["a red hat and much more", "a"])
        vlm.prepare(["a red hat and much more"])
    assert len(caught) == 1
    assert inputs.prompt_mask.sum(dim=1).tolist() == [4, 1]


def test_patchify_equals_the_image_processor(folder):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    settings = Qwen25VL(path=str(folder)).patch_settings
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, 6, 9, generator=generator)
    for size, tolerance in (((32, 32), 1e-5), ((48, 72), 0.02), ((20, 20), 0.02)):
        # Where it resizes, the processor rounds to 8 bits: one level is 0.015 after scaling.
        smooth = nn.functional.interpolate(noise, size=size, mode="bilinear")
        pixels = (smooth * 255).round().byte()
        expected = processor(list(pixels.numpy()), return_tensors="pt")
        values, grid = patchify(pixels / 127.5 - 1, settings)
        assert [list(grid)] * 2 == expected["image_grid_thw"].tolist()
        torch.testing.assert_close(values, expected["pixel_values"], atol=tolerance, rtol=0)


def test_pixel_limits_come_from_the_options(folder):
    vlm = Qwen25VL(path=str(folder), min_pixels=16 * 16, max_pixels=16 * 16)
    inputs = vlm.prepare(["a"], images_for(1)[:1])
    assert inputs.image_grid_thw.tolist() == [[1, 4, 4]]
    with pytest.raises(ValueError, match="max_pixels"):
        PatchSettings.read(
            (folder / "preprocessor_config.json").read_text(), min_pixels=9999, max_pixels=None
        )
