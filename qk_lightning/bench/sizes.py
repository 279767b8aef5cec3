"""Parameter counts of parts at full scale, on the meta device, beside those that were published.

Nothing is read or allocated. Not here: how they are shown (tables.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

EXACT, ABOUT = 0.03, 0.15  # how far a count may be off; 15 % where the source says "about"
QUERY_KONTEXT, METAQUERY = "Query-Kontext, arXiv 2509.26641", "MetaQuery, arXiv 2504.06256, table 3"


@dataclass(frozen=True)
class Size:
    """One part and its published size.

    Args:
        what: what it is, for people.
        family: the part's family.
        options: its options with `name`.
        wired: the sizes of its neighbours.
        published: millions of parameters.
        tolerance: relative, of the published count.
        source: who published it.
    """

    what: str
    family: str
    options: dict[str, Any]
    wired: dict[str, int]
    published: float
    tolerance: float
    source: str

    @cached_property
    def millions(self) -> float:
        """Millions of parameters of the part, built on the meta device."""
        from qk_lightning.assembly.build import class_of

        options = dict(self.options)
        part_class = class_of(self.family, options.pop("name"))
        with torch.device("meta"):
            part = part_class(**options, **{name: self.wired[name] for name in part_class.wired})
        return sum(parameter.numel() for parameter in part.parameters()) / 1e6


def published_sizes() -> Iterator[Size]:
    """List the parts whose size the papers tell.

    Yields:
        MetaQuery's connectors on LLaVA-OneVision 0.5B (896 wide) and Sana (2304), then the parts
        of Query-Kontext as the presets have them, on Qwen2.5-VL 7B (3584).
    """
    for name, millions in (("enc_proj", (316, 84)), ("proj_enc", (2046, 517))):
        for num_layers, published in zip((24, 6), millions, strict=True):
            width = 896 if name == "enc_proj" else 2304
            what = f"`{name}`, {num_layers} layers at width {width}"
            options = {"name": name, "num_layers": num_layers}
            wired = {"input_size": 896, "output_size": 2304}
            yield Size(what, "connector", options, wired, published, EXACT, METAQUERY)
    light, large = (_options(f"head/{name}", "head") for name in ("mmdit_light", "mmdit_10b"))
    bridge = _options("full/query_kontext/base", "connector")
    wired = {"input_size": 3584, "output_size": light["condition_size"]}
    what = f"`mlp` of Query-Kontext, 3584 to {bridge['hidden_size']} to {wired['output_size']}"
    yield Size(what, "connector", bridge, wired, 50, ABOUT, QUERY_KONTEXT)
    latents = {"latent_channels": 4}
    what = "light head, `head/mmdit_light`"
    yield Size(what, "head", light, latents, 870, ABOUT, QUERY_KONTEXT)
    what = "MMDiT, `head/mmdit_10b`"
    yield Size(what, "head", large, latents, 10_000, ABOUT, QUERY_KONTEXT)


def _options(preset: str, family: str) -> dict[str, Any]:
    """Read a part's options out of a preset, without composing the rest."""
    from qk_lightning.config.layers import load_layers

    return dict(load_layers(preset)[0].values[family])
