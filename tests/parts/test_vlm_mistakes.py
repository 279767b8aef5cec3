"""What a user may do wrong with a VLM, and what is done with pixels before it sees them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from qk_lightning.assembly.build import class_of
from qk_lightning.bench.tiny_vlms import CHAT, MAKERS, TILE, make_tiny_vlm
from qk_lightning.parts.vlms import checkpoint_files
from qk_lightning.parts.vlms.inputs import VLMInputs
from qk_lightning.parts.vlms.tiles import any_resolution, padded_squares, square_tiles

torch.set_num_threads(1)
CHATS = {
    "qwen3_vl": "<|im_start|>user\n{}a red hat<|im_end|>\n<|im_start|>assistant\n",
    "llava_onevision": "<|im_start|>user {}\na red hat<|im_end|><|im_start|>assistant\n",
    "internvl": "<|im_start|>user\n{}a red hat<|im_end|>\n<|im_start|>assistant\n",
    "causal_lm": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{}a red hat<|im_end|>\n"
    "<|im_start|>assistant\n",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("vlms")
    return {name: make_tiny_vlm(name, root / name) for name in (*MAKERS, "qwen2_5_vl")}


@pytest.fixture
def open_vlm(folders):
    return lambda name, **options: class_of("vlm", name)(path=str(folders[name]), **options)


@pytest.mark.parametrize(("name", "chat"), CHATS.items())
def test_a_prompt_stands_in_the_models_chat(open_vlm, name, chat):
    vlm = open_vlm(name)
    inputs = vlm.prepare(["a red hat"])
    assert vlm.tokenizer.decode(inputs.input_ids[0]) == chat.format("")
    assert vlm.tokenizer.decode(inputs.input_ids[0][inputs.prompt_mask[0]]) == "a red hat"


@pytest.mark.parametrize(
    ("name", "options", "size", "images", "expected"),
    [
        # One image: the whole and 2 tiles, of 16 patches each, and a line end for each line.
        ("llava_onevision", {}, (24, 12), 1, "<image>" * (16 + 32 + 8)),
        ("llava_onevision", {}, (24, 12), 2, "<image>" * 17 * 2),
        ("llava_onevision", {"tiles": False}, (24, 12), 1, "<image>" * 17),
        ("internvl", {}, (32, 16), 1, f"<img>{'<IMG_CONTEXT>' * 12}</img>\n"),
        ("internvl", {"max_tiles": 1}, (32, 16), 2, f"<img>{'<IMG_CONTEXT>' * 4}</img>\n" * 2),
        ("qwen3_vl", {}, (32, 16), 1, f"<|vision_start|>{'<|image_pad|>' * 8}<|vision_end|>"),
    ],
)
def test_an_image_becomes_the_stated_tokens(open_vlm, name, options, size, images, expected):
    vlm = open_vlm(name, **options).requires_grad_(False)
    assert vlm.load_base()
    inputs = vlm.prepare(["a red hat"], torch.zeros(1, images, 3, *size))
    assert vlm.tokenizer.decode(inputs.input_ids[0]) == CHATS[name].format(expected)
    assert vlm(inputs).text_states.isfinite().all()


def smooth(size):
    noise = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    return (nn.functional.interpolate(noise, size=size, mode="bilinear") * 255).round().byte()


# Where it resizes, the processor rounds to 8 bits: one level is 0.008 to 0.015 after scaling.
@pytest.mark.parametrize("size", [(32, 32), (16, 32), (40, 24), (20, 50), (10, 11)])
def test_tiles_equal_the_image_processors(open_vlm, folders, size):
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    pixels = smooth(size)
    images, listed = pixels / 127.5 - 1, list(pixels.numpy())
    intern = GotOcr2ImageProcessorPil.from_pretrained(folders["internvl"])
    expected = intern(listed, return_tensors="pt")["pixel_values"]
    found = square_tiles(images, open_vlm("internvl").tile_settings)
    torch.testing.assert_close(found.flatten(0, 1), expected, atol=0.03, rtol=0)
    llava = LlavaOnevisionImageProcessorPil.from_pretrained(folders["llava_onevision"])
    settings = open_vlm("llava_onevision").tile_settings
    for cut, given in ((any_resolution, listed), (padded_squares, [listed])):
        expected = llava(given, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(cut(images, settings), expected, atol=0.03, rtol=0)
    assert found.shape[-1] == TILE


def test_padding_at_the_right_is_refused(open_vlm):
    inputs = open_vlm("causal_lm").prepare(["a red hat", "a"])
    flipped = {
        "input_ids": inputs.input_ids.flip(1),
        "attention_mask": inputs.attention_mask.flip(1),
    }
    with pytest.raises(ValueError, match=r"padding at the left alone.*vlm\.prepare"):
        replace(inputs, **flipped)
    gap = inputs.attention_mask.clone()
    gap[:, 3] = 0
    with pytest.raises(ValueError, match="padding after a token"):
        VLMInputs(**{**vars(inputs), "attention_mask": gap})
    assert inputs.to("cpu").input_ids.equal(inputs.input_ids)


@pytest.mark.parametrize("held", [*MAKERS, "qwen2_5_vl"])
@pytest.mark.parametrize("asked", [*MAKERS, "qwen2_5_vl"])
def test_a_checkpoint_of_another_model_names_its_part(folders, held, asked):
    if held != asked:
        with pytest.raises(ValueError, match=f"Choose another checkpoint, use vlm={held} for it"):
            class_of("vlm", asked)(path=str(folders[held]))


@pytest.mark.parametrize("name", [*MAKERS])
def test_a_folder_that_is_no_checkpoint(folders, name, tmp_path):
    part = class_of("vlm", name)
    with pytest.raises(ValueError, match="has no config.json"):
        part(path=str(tmp_path))
    shutil.copytree(folders[name], tmp_path / "copy")
    for file in (tmp_path / "copy").glob("*token*"):
        file.unlink()
    with pytest.raises(ValueError, match="lacks a tokenizer"):
        part(path=str(tmp_path / "copy"))


def test_an_encoder_is_no_causal_lm(folders, tmp_path):
    changed = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="expected a causal language model.*or another vlm"):
        class_of("vlm", "causal_lm")(path=str(tmp_path))


def kind_of_causal_lm(folders, folder, config):
    """Give a random checkpoint's folder the sizes of another kind of model, and no weights."""
    shutil.copytree(folders["causal_lm"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config.save_pretrained(folder)
    return str(folder)


def test_a_model_without_attention_is_refused_and_a_hybrid_read(folders, tmp_path):
    import transformers

    sizes = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 2}
    for kind in ("mamba", "rwkv"):
        config = transformers.CONFIG_MAPPING[kind](**sizes)
        path = kind_of_causal_lm(folders, tmp_path / kind, config)
        said = f"vlm.path: .*{kind}' holds a '{kind}'.*expected a model with attention.*Choose"
        with pytest.raises(ValueError, match=said):
            class_of("vlm", "causal_lm")(path=path)
    mixed = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}
    kinds = ["conv", "full_attention"]
    config = transformers.Lfm2Config(**sizes, **mixed, layer_types=kinds)
    path = kind_of_causal_lm(folders, tmp_path / "lfm2", config)
    vlm = class_of("vlm", "causal_lm")(path=path).requires_grad_(False)
    assert vlm(vlm.prepare(["a red hat"]), torch.zeros(1, 2, 16)).kontext.isfinite().all()


def test_embeddings_of_another_width_than_the_layers_are_refused(folders, tmp_path):
    from transformers import OPTConfig

    sizes = {"vocab_size": 400, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
    config = OPTConfig(hidden_size=16, word_embed_proj_dim=8, **sizes)
    path = kind_of_causal_lm(folders, tmp_path / "opt", config)
    said = r"vlm\.path: .* token embeddings of width 8, expected 16 \(hidden_size\).*Choose another"
    with pytest.raises(ValueError, match=said):
        class_of("vlm", "causal_lm")(path=path)


def test_a_model_without_such_attention_names_one_that_it_has(folders, tmp_path):
    from transformers import Gemma2Config

    sizes = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    path = kind_of_causal_lm(folders, tmp_path / "gemma2", Gemma2Config(**sizes, **heads))
    part = class_of("vlm", "causal_lm")
    with pytest.raises(ValueError, match=r"vlm\.attention: 'sdpa', .*set vlm\.attention=eager"):
        part(path=path)
    vlm = part(path=path, attention="eager").requires_grad_(False)
    assert vlm(vlm.prepare(["a red hat"]), torch.zeros(1, 2, 16)).kontext.isfinite().all()


def test_a_text_model_shown_a_picture(open_vlm):
    with pytest.raises(ValueError, match="images = 1: expected none, as CausalLM reads text"):
        open_vlm("causal_lm").prepare(["a"], torch.zeros(1, 1, 3, 16, 16))


def test_a_tokenizer_that_knows_no_image_token(folders, tmp_path):
    shutil.copytree(folders["internvl"], tmp_path / "copy")
    shutil.copy(folders["causal_lm"] / "tokenizer.json", tmp_path / "copy")
    file = tmp_path / "copy" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_token_id": 5}))
    vlm = class_of("vlm", "internvl")(path=str(tmp_path / "copy"))
    with pytest.raises(ValueError, match="makes 0 image tokens of 4 '<IMG_CONTEXT>'"):
        vlm.prepare(["a"], torch.zeros(1, 1, 3, 16, 16))


def test_a_tokenizer_without_a_chat_gives_the_prompt_alone(open_vlm):
    vlm = open_vlm("causal_lm")
    assert vlm.tokenizer.chat_template == CHAT
    vlm.tokenizer.chat_template = None
    assert vlm.tokenizer.decode(vlm.prepare(["a hat"]).input_ids[0]) == "<|im_end|>a hat\n"
    assert vlm.prepare([""]).prompt_columns == (0, 1)


def test_image_settings_are_found_where_transformers_5_writes_them(folders, tmp_path):
    shutil.copytree(folders["internvl"], tmp_path / "copy")
    file = tmp_path / "copy" / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    file.rename(file.with_name("gone"))
    whole = {"processor_class": "InternVLProcessor", "image_processor": settings}
    file.with_name("processor_config.json").write_text(json.dumps(whole))
    assert json.loads(checkpoint_files.read_preprocessor(str(tmp_path / "copy"))) == settings
    vlm = class_of("vlm", "internvl")(path=str(tmp_path / "copy"))
    vlm.export(tmp_path / "export")
    assert (tmp_path / "export" / "preprocessor_config.json").is_file()


def test_no_tile_is_no_image(open_vlm):
    with pytest.raises(ValueError, match="max_tiles: 0, expected 1 or more"):
        open_vlm("internvl", max_tiles=0)
