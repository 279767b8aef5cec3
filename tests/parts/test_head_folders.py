"""Heads from folders of diffusers, pipelines, shards and the hub; and folders that are none."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from small_heads import BY_HAND, CHANNELS, SMALL, batch, class_of, make, theirs

from qk_lightning.config.errors import ConfigError

EACH = pytest.mark.parametrize("name", SMALL)
OTHER = {"flux": "sana", "sana": "sd3", "sd3": "qwen_image", "qwen_image": "sd15", "sd15": "flux"}


def saved(name, folder, **options):
    """Save diffusers' own model of a kind, and return it."""
    model = theirs(make(name))
    model.save_pretrained(folder, **options)
    return model


def load(name, path, **options):
    """Build a head on the meta device from a folder, and load it."""
    with torch.device("meta"):
        head = class_of(name)(path=str(path), **{"latent_channels": CHANNELS, **options})
    assert head.load_base()
    return head


@EACH
@torch.no_grad()
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "10KB"}], ids=["whole", "sharded"])
def test_a_folder_of_diffusers_loads_on_meta_and_as_it_is(name, shards, tmp_path):
    model, inputs = saved(name, tmp_path, **shards), batch()
    assert bool(list(tmp_path.glob("*.index.json"))) is bool(shards)
    plain = {key: inputs[key] for key in ("noisy_latents", "sigma", "condition")}
    head = load(name, tmp_path)
    assert not any(value.is_meta for value in (*head.parameters(), *head.buffers()))
    torch.testing.assert_close(head(**inputs), BY_HAND[name](model, **plain), atol=1e-6, rtol=0)
    eager = class_of(name)(path=str(tmp_path), latent_channels=CHANNELS)
    eager.load_base()
    assert torch.equal(head(**inputs), eager(**inputs))


@EACH
@torch.no_grad()
def test_what_is_exported_loads_here_and_in_diffusers(name, tmp_path):
    head, inputs = make(name), batch()
    head.export(tmp_path)
    again = load(name, tmp_path)
    assert again.settings() == {**head.settings(), "config": again.settings()["config"]}
    assert torch.equal(again(**inputs), head(**inputs))
    model = type(head.model).from_pretrained(tmp_path)
    plain = {key: inputs[key] for key in ("noisy_latents", "sigma", "condition")}
    torch.testing.assert_close(head(**inputs), BY_HAND[name](model, **plain), atol=1e-6, rtol=0)


@EACH
def test_options_that_contradict_the_folder_are_refused(name, tmp_path):
    saved(name, tmp_path)
    option = "layers_per_block" if name == "sd15" else "num_layers"
    with pytest.raises(ValueError, match=f"{option}: 7, but .* says 1|says 2"):
        load(name, tmp_path, **{option: 7})
    with pytest.raises(ValueError, match="channels"):
        class_of(name)(path=str(tmp_path), latent_channels=CHANNELS + 1)


@EACH
def test_a_folder_for_another_autoencoder_names_the_new_head_that_would_fit(name, tmp_path):
    saved(name, tmp_path / "model")
    with pytest.raises(ConfigError) as raised:
        load(name, tmp_path, subfolder="model", latent_channels=CHANNELS + 2)
    (problem,) = raised.value.problems
    assert problem.key == "path" and f"gives {CHANNELS + 2} channels a cell" in problem.expected
    assert f"fixes that its model reads {CHANNELS}" in problem.expected
    assert problem.fix.startswith("set head.path=null and head.subfolder=null for a new head")
    assert class_of(name)(**SMALL[name], latent_channels=CHANNELS + 2).load_base() is False


def test_a_flux_of_another_patch_names_the_patch(tmp_path):
    theirs(make("flux", patch=2)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"reads 20.*\n.*fix: set head.patch=2"):
        load("flux", tmp_path)
    assert load("flux", tmp_path, patch=2).cell_multiple == 2


@EACH
def test_a_folder_of_another_class_names_the_head_that_reads_it(name, tmp_path):
    saved(OTHER[name], tmp_path)
    with pytest.raises(ValueError, match=rf"write `head: \{{name: {OTHER[name]}\}}`"):
        load(name, tmp_path)


@EACH
def test_a_pipeline_wants_the_models_folder(name, tmp_path):
    part = "unet" if name == "sd15" else "transformer"
    saved(name, tmp_path / part)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=f"is no model, .* a pipeline; set subfolder: {part}"):
        load(name, tmp_path)
    with pytest.raises(ValueError, match=r"AutoencoderKL, expected .*autoencoder: \{name: kl\}"):
        load(name, tmp_path, subfolder="vae")
    head, inputs = load(name, tmp_path, subfolder=part), batch()
    torch.testing.assert_close(head(**inputs), make(name)(**inputs), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="without a path"):
        make(name, subfolder=part)


@EACH
def test_a_folder_that_is_no_checkpoint_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json"):
        load(name, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="holds a qwen2, expected"):
        load(name, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no _class_name in its config.json"):
        load(name, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON object"):
        load(name, tmp_path)


@EACH
def test_a_hub_id_with_a_subfolder_goes_through_the_hub(name, tmp_path, monkeypatch):
    import huggingface_hub.constants

    part = "unet" if name == "sd15" else "transformer"
    snapshot = tmp_path / "models--lab--tiny" / "snapshots" / ("0" * 40)
    saved(name, snapshot / part)
    (tmp_path / "models--lab--tiny" / "refs").mkdir()
    (tmp_path / "models--lab--tiny" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    head, inputs = load(name, "lab/tiny", subfolder=part), batch()
    torch.testing.assert_close(head(**inputs), make(name)(**inputs), atol=1e-6, rtol=0)
    shutil.rmtree(snapshot)
    with pytest.raises(OSError, match="lab/tiny"):
        load(name, "lab/tiny", subfolder=part)


@torch.no_grad()
def test_sanas_table_of_positions_survives_the_meta_device(tmp_path):
    """A known trap: the table of the variants with interpolation_scale is in no file."""
    from diffusers import SanaTransformer2DModel

    config = {**make("sana").model.config, "interpolation_scale": 2, "sample_size": 4}
    SanaTransformer2DModel.from_config(config).save_pretrained(tmp_path)
    eager = class_of("sana")(path=str(tmp_path), latent_channels=CHANNELS)
    eager.load_base()
    meta = load("sana", tmp_path)
    for size in ((4, 4), (2, 6)):  # the table's own size, and one computed for the call
        expected = eager(**batch(*size))
        assert torch.equal(meta(**batch(*size)), expected)
        assert not torch.allclose(make("sana")(**batch(*size)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("sana", {"guidance_embeds": True}, "Sana-Sprint"),
        ("qwen_image", {"zero_cond_t": True}, "zero_cond_t"),
        ("qwen_image", {"use_layer3d_rope": True}, "use_layer3d_rope"),
        ("sd15", {"addition_embed_type": "text_time"}, "SDXL"),
        ("sd15", {"in_channels": 9}, "reads 9 channels"),
        ("sd3", {"out_channels": 10}, "returns 10"),
    ],
)
def test_variants_that_read_other_inputs_are_refused(name, changes, said, tmp_path):
    make(name).export(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=said):
        load(name, tmp_path)


def test_a_slot_of_pix2pix_is_read_from_the_folder(tmp_path):
    """InstructPix2Pix's UNet reads eight channels: the source is its one slot."""
    from diffusers import UNet2DConditionModel

    config = {**make("sd15").model.config, "in_channels": 2 * CHANNELS}
    UNet2DConditionModel.from_config(config).save_pretrained(tmp_path)
    assert load("sd15", tmp_path).num_image_slots == 1
