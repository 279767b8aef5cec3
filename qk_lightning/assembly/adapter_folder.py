"""A LoRA kept apart from its part, as a folder in peft's own format.

adapter_config.json + adapter_model.safetensors with `base_model.model.<layer>.lora_A.weight`
[r, in] and `..lora_B.weight` [out, r]. A layer's name is that inside the library's model, so that
peft loads the folder onto the part's exported folder without this package. Not here: LoRA while
a run trains (lora.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from qk_lightning.assembly.lora import add_update, read_update

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PEFT = "base_model.model."
# What peft's configuration may hold that a plain sum W + alpha / rank * B A does not say.
REFUSED = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")


def write_adapter(part: nn.Module, file: Path, folder: Path, base: str) -> None:
    """Write a run's LoRA as peft writes one.

    Args:
        part: the part that it updates.
        file: what the run kept, as `merge_lora` reads it; or a folder as written here.
        folder: created if missing.
        base: name of the folder with the part's own weights.
    """
    from peft import LoraConfig

    rank, alpha, update = read_adapter(part, file) if file.is_dir() else read_update(file)
    prefix = _inside(part)
    state, layers = {}, []
    for layer, (down, up) in update.items():
        layers.append(layer.removeprefix(prefix))
        state[f"{PEFT}{layers[-1]}.lora_A.weight"] = down
        state[f"{PEFT}{layers[-1]}.lora_B.weight"] = up
    LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=layers, base_model_name_or_path=base
    ).save_pretrained(str(folder))
    # peft writes its set of names in any order; the same LoRA has one digest.
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["target_modules"] = sorted(layers)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_adapter(part: nn.Module, folder: Path) -> tuple[int, float, dict[str, Any]]:
    """Read a folder in peft's format.

    Args:
        part: the part that it updates.
        folder: the folder.

    Returns:
        Rank, alpha, and (down [r, in], up [out, r]) in float32 by the layer's name in the part.

    Raises:
        ValueError: a file is missing, or the adapter is more than a plain LoRA.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}, as peft writes it")
    config = json.loads((folder / CONFIG_FILE).read_text())
    extra = [name for name in REFUSED if config.get(name)]
    if extra or config.get("bias", "none") != "none":
        raise ValueError(f"{folder} is more than a plain LoRA ({', '.join(extra) or 'bias'})")
    state, prefix = load_file(folder / WEIGHTS_FILE), _inside(part)
    update = {}
    for name, down in state.items():
        if ".lora_A." in name:
            up = state[name.replace(".lora_A.", ".lora_B.")]
            layer = name.split(".lora_A.")[0].removeprefix(PEFT)
            update[f"{prefix}{layer}"] = (down.float(), up.float())
    return int(config["r"]), float(config["lora_alpha"]), update


def merge_adapter(part: nn.Module, folder: Path) -> int:
    """Add a LoRA that was kept apart to a part: W <- W + alpha / rank * B A, in float32.

    Args:
        part: the part, without adapters.
        folder: in peft's format.

    Returns:
        How many matrices were updated.

    Raises:
        ValueError: it updates nothing, a layer that the part does not have, or one of another
            width.
    """
    rank, alpha, update = read_adapter(part, folder)
    for layer, (down, up) in update.items():
        add_update(part, layer, down, up, alpha / rank)
    if not update:
        raise ValueError(f"{folder} holds no LoRA update")
    return len(update)


def _inside(part: nn.Module) -> str:
    """Return where the library's model stands in a part: peft and its users know it alone."""
    return "model." if hasattr(getattr(part, "model", None), "save_pretrained") else ""
