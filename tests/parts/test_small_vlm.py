"""The small VLM: made from texts alone, it reads like a real checkpoint and learns to answer."""

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from qk_lightning.parts.vlms.qwen2_5_vl import Qwen25VL
from qk_lightning.parts.vlms.small import SPECIAL_TOKENS, make_small_vlm

torch.set_num_threads(1)  # many small operations: threads only get in each other's way
TEXTS = ["a red hat", "a blue hat", "which colour is it?", "red", "blue"]


def make(folder, **sizes):
    sizes = {"hidden_size": 64, "num_layers": 2, "vision_hidden": 32, "vision_layers": 1} | sizes
    return make_small_vlm(folder, TEXTS, **sizes)


def test_the_folder_reads_like_a_real_one(tmp_path):
    make(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.model_type == "qwen2_5_vl"
    assert config.tie_word_embeddings
    for token in SPECIAL_TOKENS:
        assert len(tokenizer.encode(f"{token}", add_special_tokens=False)) == 1
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == config.image_token_id
    assert tokenizer.decode(tokenizer.encode("naïve 漢字 🙂\n x")) == "naïve 漢字 🙂\n x"
    assert len(tokenizer.encode("a red hat")) == 3
    assert len(tokenizer) == config.get_text_config().vocab_size


def test_the_seed_decides_the_weights_and_nothing_else_changes(tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    files = [make(tmp_path / str(i), seed=s) / "model.safetensors" for i, s in enumerate([0, 0, 1])]
    assert torch.equal(before, torch.random.get_rng_state())
    first, same, other = (file.read_bytes() for file in files)
    assert first == same
    assert first != other


@pytest.mark.parametrize(("image_size", "patch_size", "tokens"), [(32, 4, 16), (32, 8, 4)])
def test_images_become_the_stated_number_of_tokens(tmp_path, image_size, patch_size, tokens):
    make(tmp_path, image_size=image_size, patch_size=patch_size)
    vlm = Qwen25VL(path=str(tmp_path))
    for size in (32, 64):
        inputs = vlm.prepare(["a"], torch.zeros(1, 2, 3, size, size))
        assert int((inputs.input_ids == vlm.model.config.image_token_id).sum()) == 2 * tokens


def test_sizes_that_do_not_divide_are_named(tmp_path):
    with pytest.raises(ValueError, match="hidden_size: 100.*image_size: 30"):
        make(tmp_path, hidden_size=100, image_size=30)
    with pytest.raises(ValueError, match="vocab_size"):
        make(tmp_path, vocab_size=100)


def test_language_loss_is_the_loss_of_the_answer_alone(tmp_path):
    vlm = Qwen25VL(path=str(make(tmp_path)))
    vlm.load_base()
    images = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    prompts, answers = ["which colour is it?", ""], ["red hat", ""]
    total, count = 0.0, 0
    for row in range(2):
        inputs = vlm.prepare(prompts[row : row + 1], images[row : row + 1])
        ids = vlm.tokenizer(answers[row] + "<|im_end|>", return_tensors="pt").input_ids.long()
        ids = torch.cat([inputs.input_ids, ids], dim=1)
        logits = vlm.model(
            input_ids=ids,
            pixel_values=inputs.pixel_values,
            image_grid_thw=inputs.image_grid_thw,
            mm_token_type_ids=(ids == vlm.model.config.image_token_id).int(),
        ).logits
        start = inputs.input_ids.shape[1]
        total = total + torch.nn.functional.cross_entropy(
            logits[0, start - 1 : -1], ids[0, start:], reduction="sum"
        )
        count += ids.shape[1] - start
    loss = vlm.language_loss(vlm.prepare(prompts, images), answers)
    torch.testing.assert_close(loss, total / count, atol=1e-5, rtol=1e-5)


def test_it_learns_to_see(tmp_path):
    vlm = Qwen25VL(path=str(make(tmp_path)))
    vlm.load_base()
    images = torch.zeros(4, 1, 3, 32, 32)
    images[::2, :, 0] = 1.0
    images[1::2, :, 2] = 1.0
    inputs = vlm.prepare(["which colour is it?", "", "", "which colour is it?"], images)
    answers = ["red", "a blue hat", "a red hat", "blue"]
    optimizer = torch.optim.AdamW(vlm.parameters(), lr=3e-3)
    for _ in range(60):
        loss = vlm.language_loss(inputs, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert all(p.grad is not None for p in vlm.parameters())
    assert vlm.answer(inputs, 8) == answers
