"""Suite `reconstruction`: what of a picture goes through the VLM's eyes and out of the head?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from qk_lightning.data.collate import to_unit
from qk_lightning.data.sample import World
from qk_lightning.evaluation.item import Item, Metric, Pictures
from qk_lightning.evaluation.suite import Suite
from qk_lightning.evaluation.verdict import Verdict


class Reconstruction(Suite):
    """The input picture drawn again: PSNR against it, and what the world's reader says of it.

    Worlds count alike: means over worlds' means.
    """

    name = "reconstruction"
    parts = {"avatars": ("reconstruction",), "scenes": ("reconstruction",)}
    controls = ("gt", "recon", "shuffled", "blank")  # a copy of the input is the picture itself

    def verdicts(self, world: World, pictures: Pictures) -> list[Verdict]:
        """Add the PSNR against the target to what the reader says."""
        from qk_lightning.systems.autoencoder import image_psnr

        read = super().verdicts(world, replace(pictures, sources=None))
        target = torch.stack([to_unit(self.target(world, item)) for item in pictures.items])
        psnr = image_psnr(to_unit(pictures.images), target).tolist()
        return [
            replace(verdict, parts={**verdict.parts, "psnr": value})
            for verdict, value in zip(read, psnr, strict=True)
        ]

    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List PSNR in dB and the reader's mean score, over all worlds and of each."""
        found = [
            Metric("psnr", "psnr", mean_of="world", is_share=False),
            Metric("accuracy", "score", mean_of="world"),
        ]
        worlds = dict.fromkeys(item.world for item in items)
        if len(worlds) > 1:
            for kind in worlds:
                found.append(Metric(f"{kind}_psnr", "psnr", worlds=(kind,), is_share=False))
                found.append(Metric(f"{kind}_accuracy", "score", worlds=(kind,)))
        return found
