"""The presets at full scale: they compose, say what is missing, and build on the meta device.

The hub is a folder of configurations, written here from the published architectures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.paths import list_presets
from qk_lightning.config.schema import PART_FAMILIES

PRESETS = [
    name for name in list_presets() if name.startswith("full/") and not name.endswith("base")
]
QWEN = "Qwen/Qwen2.5-VL-{}-Instruct"
LLAVA = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
SANA = "Efficient-Large-Model/Sana_1600M_512px_diffusers"
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
# Billions of parameters as the models' cards and papers have them; the connector's by arithmetic.
EXPECTED = {
    "query_kontext/stage1": {"vlm": 8.3, "head": 0.87, "connector": 0.05},
    "query_kontext/stage3": {"vlm": 8.3, "head": 10.0, "connector": 0.05},
    "metaquery/b": {"vlm": 0.9, "head": 1.6, "connector": 0.316},
    "metaquery/l": {"vlm": 3.75, "head": 1.6, "connector": 1.62},
    "metaquery/xl": {"vlm": 8.3, "head": 1.6, "connector": 4.95},
    "metaquery/b_sd15": {"vlm": 0.9, "head": 0.86, "connector": 0.31},
}


def qwen(hidden: int, inner: int, layers: int, heads: int, groups: int, **more: Any) -> dict:
    """Qwen2.5-VL's config.json."""
    from transformers import Qwen2_5_VLConfig

    text = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    text |= {"num_attention_heads": heads, "num_key_value_heads": groups, **more}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    text["rope_parameters"]["mrope_section"] = [16, 24, 24]
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    vision |= {"out_hidden_size": hidden, "patch_size": 14, "window_size": 112}
    vision |= {"fullatt_block_indexes": [7, 15, 23, 31]}
    tied = {"tie_word_embeddings": more["tie_word_embeddings"]}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tied).to_dict()


def llava() -> dict:
    """LLaVA-OneVision 0.5B's config.json."""
    from transformers import LlavaOnevisionConfig

    text = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864}
    text |= {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
    text |= {"vocab_size": 152000, "tie_word_embeddings": True}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 1152, "patch_size": 14}
    vision |= {"intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16}
    vision |= {"image_size": 384, "vision_use_head": False}
    config = LlavaOnevisionConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    return config.to_dict()


def of_diffusers(name: str, **more: Any) -> dict:
    """A diffusers config: its class's defaults, which are the published model's."""
    import inspect

    import diffusers

    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.name != "self"}
    return {"_class_name": name, **defaults, **more}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the configurations and no weights."""
    import huggingface_hub.constants

    folder = tmp_path / "hub"
    files = {
        QWEN.format("7B"): {"": qwen(3584, 18944, 28, 28, 4, vocab_size=152064,
                                     tie_word_embeddings=False)},
        QWEN.format("3B"): {"": qwen(2048, 11008, 36, 16, 2, vocab_size=151936,
                                     tie_word_embeddings=True)},
        LLAVA: {"": llava()},
        "stabilityai/sd-vae-ft-mse": {"": SD_VAE},
        SANA: {"transformer": of_diffusers("SanaTransformer2DModel"),
               "vae": of_diffusers("AutoencoderDC")},
        SD15: {"unet": of_diffusers("UNet2DConditionModel", sample_size=64, attention_head_dim=8,
                                    cross_attention_dim=768),
               "vae": SD_VAE},
    }  # fmt: skip
    for name, configs in files.items():
        root = folder / f"models--{name.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("0" * 40)
        for subfolder, config in configs.items():
            target = root / "snapshots" / ("0" * 40) / subfolder
            target.mkdir(parents=True)
            (target / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def data(root: Path) -> str:
    (root / "my.jsonl").write_text("")
    return "data.world.path=my.jsonl"


def test_the_presets_are_those_of_the_papers() -> None:
    stages = [f"full/query_kontext/{name}" for name in ("stage1", "stage2", "stage3")]
    sizes = [f"full/metaquery/{name}" for name in ("b", "b_sd15", "l", "xl")]
    assert sorted(PRESETS) == [*sizes, *stages, "full/query_kontext/stage3_1024"]


@pytest.mark.parametrize("name", PRESETS)
def test_it_composes_with_data_of_yours_and_names_the_key_without(name: str, data: str) -> None:
    cfg = compose(name, [data]).cfg
    assert cfg.data.world.path == "my.jsonl" and cfg.trainer.precision == "bf16-mixed"
    with pytest.raises(ConfigError, match=r"data\.world\.path.*\n.*set `data.world.path="):
        compose(name)


def test_an_empty_path_to_the_data_is_named(root: Path, capsys: pytest.CaptureFixture) -> None:
    name = "full/query_kontext/stage1"
    assert main(["fit", name, "data.world.path=./nowhere.jsonl", "--plan"]) == 2
    said = capsys.readouterr().err
    assert "world.path = './nowhere.jsonl'" in said and "Traceback" not in said


def test_the_chain_is_that_of_the_paper(data: str) -> None:
    plans = plan_chain("full/query_kontext/stage3_1024", [data])
    assert [plan.stage for plan in plans] == ["stage1", "stage2", "stage3", "stage3_1024"]
    trainers = [plan.cfg.trainer for plan in plans]
    assert [trainer.max_steps for trainer in trainers] == [72_000, 420_000, 30_000, 3_000]
    assert [trainer.global_batch_size for trainer in trainers] == [512, 1024, 512, 512]
    assert [plan.cfg.data.world.size for plan in plans] == [512, 512, 512, 1024]
    assert [plan.cfg.system.low_level for plan in plans] == [False, False, True, True]
    one, two, three, _ = (plan.cfg for plan in plans)
    assert one.queries.num_queries == three.queries.num_queries == 128
    assert two.from_parent.vlm == "merge" and "vlm" not in two.trainable
    assert three.trainable.head.lora.rank == 256


def test_metaquery_trains_as_its_code_says(data: str) -> None:
    names = [name for name in PRESETS if name.startswith("full/metaquery/")]
    for name in names:
        cfg = compose(name, [data]).cfg
        assert cfg.system.context == "queries" and "vlm" not in cfg.trainable
        assert cfg.connector.num_layers == 24
        assert cfg.trainer.global_batch_size * cfg.trainer.max_steps == pytest.approx(2e8, rel=1e-4)
        assert cfg.optimizer.gradient_clip == 0.5 and cfg.optimizer.weight_decay == 0.1
        is_sd = name.endswith("sd15")
        assert cfg.queries.num_queries == (77 if is_sd else 256)
        assert ("head" in cfg.trainable) is not is_sd
        assert cfg.connector.output_gain == pytest.approx(1 if is_sd else 5.5**0.5, abs=1e-4)
        low = 1e-6 if name.endswith("/xl") else 1e-5
        assert cfg.optimizer.lr * cfg.optimizer.min_lr_ratio == pytest.approx(low)


@pytest.mark.parametrize("name", ["full/query_kontext/stage1", "full/metaquery/b"])
def test_a_hub_that_cannot_be_reached_is_told_with_the_way_round(name, data, tmp_path, monkeypatch):
    import huggingface_hub.constants

    from qk_lightning.assembly.dry_run import dry_run

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as caught:
        dry_run(compose(name, [data]).cfg)
    said = str(caught.value)
    assert "vlm.path = " in said and "--local-dir FOLDER" in said and "vlm.path=FOLDER" in said


@pytest.mark.parametrize(
    "name",
    [name if name == "metaquery/b" else pytest.param(name, marks=pytest.mark.slow)
     for name in EXPECTED],
)  # fmt: skip
def test_it_builds_on_the_meta_device_in_the_published_sizes(name, data, hub) -> None:
    from qk_lightning.assembly.dry_run import dry_run

    cfg = compose(f"full/{name}", [data]).cfg
    result = dry_run(cfg)
    counts = {family: counts["total"] / 1e9 for family, counts in result.parameters.items()}
    for family, billions in EXPECTED[name].items():
        if cfg.trainable.get(family) in (None, "full"):
            assert counts[family] == pytest.approx(billions, rel=0.03), family
    assert all(cost.flops for cost in result.flops), result.describe()
    learns = {family for family, count in result.parameters.items() if count["trainable"]}
    assert learns == {family for family in PART_FAMILIES if family in cfg.trainable}
