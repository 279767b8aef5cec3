"""Latents of all images of a world, encoded once by a frozen autoencoder and kept on disk.

Shapes: R images of the world, C x h x w a latent.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qk_lightning.config.paths import cache_root
from qk_lightning.data.collate import to_unit
from qk_lightning.data.disk_cache import build_once
from qk_lightning.data.sample import Progress, World, WorldPart

if TYPE_CHECKING:
    from qk_lightning.parts.base import Part

_NAME = "latents"


def latent_key(world: World, autoencoder: Part) -> str:
    """Names the latents of a world under an autoencoder, by all that decides them.

    That is the world's fingerprint; the autoencoder's weights, settings (statistics of the latents
    too), version and source file. Where its weights lie does not count.

    Args:
        world: Gives its fingerprint.
        autoencoder: With its weights loaded.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: If the autoencoder's class is in no file.
    """
    settings = json.dumps(autoencoder.settings(), sort_keys=True, default=repr)
    digest = hashlib.sha256(f"{world.fingerprint()}\n{settings}\n".encode())
    digest.update(f"{autoencoder.version}\n{_source_digest(type(autoencoder))}\n".encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _source_digest(part_class: type) -> str:
    try:
        file = inspect.getsourcefile(part_class)
    except (TypeError, OSError):
        file = None
    if file is None or not Path(file).is_file():
        raise ValueError(
            f"autoencoder: {part_class.__name__} is in no file; its latents can only be cached "
            "with its source: move the class to a file, or set data.cache_latents=false"
        )
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


class LatentCache:
    """All latents of a world by row, memory-mapped: `cache[rows]` -> [len(rows), C, h, w] float32.

    Args:
        path: A finished cache file; `LatentCache.open` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._table: Tensor | None = None

    @classmethod
    def open(
        cls,
        world: World,
        autoencoder: Part,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> LatentCache:
        """Opens the latents of a world, encoding them first where they are missing or damaged.

        The worlds of a mixture have a file each, which they share with runs on one of them alone.
        Of several processes one encodes, the others wait. A finished file is read without a lock.

        Args:
            world: All its images are encoded, both splits.
            autoencoder: Frozen, loaded and not sharded (one rank encodes); `encode` takes images
                [B, 3, H, W] in [-1, 1], on the device and in the precision it is in.
            batch_size: Images encoded at once.
            progress: Called with (done, total) images.

        Returns:
            The cache.

        Raises:
            ValueError: If the autoencoder gives latents that are not finite, or is in no file.
        """
        parts = world.parts()
        if len(parts) > 1 or parts[0].world is not world:
            return JoinedLatents(
                [
                    cls.open(part.world, autoencoder, batch_size, _shifted(progress, part, world))
                    for part in parts
                ]
            )
        key = latent_key(world, autoencoder)
        path = cache_root() / _NAME / f"{key}.safetensors"

        def build(file: Path) -> None:
            """Encode every picture of the world into the file."""
            from safetensors.torch import save_file

            world.prepare()
            table = _encode_all(world, autoencoder, batch_size, progress)
            save_file({_NAME: table}, file, metadata={"key": key})

        build_once(path, lambda file: _is_whole(file, world.num_images, key), build)
        return cls(path)

    @property
    def table(self) -> Tensor:
        """[R, C, h, w] float32, mapped to the file; opened in each process on first use."""
        if self._table is None:
            from safetensors import safe_open

            with safe_open(self.path, framework="pt") as file:
                self._table = file.get_tensor(_NAME)
        return self._table

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        channels, height, width = self.table.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        """The number of images R."""
        return len(self.table)

    def __getitem__(self, rows: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """Returns a copy of the latents of some rows: [len(rows), C, h, w] float32, on the CPU."""
        return self.table.index_select(0, torch.as_tensor(rows, dtype=torch.int64))

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the mapped table out: a loader's worker opens the file itself."""
        return {"path": self.path, "_table": None}


class JoinedLatents(LatentCache):
    """Latents of the worlds of a mixture, row after row, each in a file of its own.

    Args:
        caches: Those of the worlds, in their order; latents of one shape.
    """

    def __init__(self, caches: Sequence[LatentCache]) -> None:
        self.caches = list(caches)

    @property
    def table(self) -> Tensor:
        """[R, C, h, w] float32, joined anew at each call; reading rows does without it."""
        return torch.cat([cache.table for cache in self.caches])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        return self.caches[0].shape

    def __len__(self) -> int:
        """The number of images R of all worlds."""
        return sum(len(cache) for cache in self.caches)

    def __getitem__(self, rows: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """Returns a copy of the latents of some rows: [len(rows), C, h, w] float32, on the CPU."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        found, first = torch.empty(len(rows), *self.shape), 0
        for cache in self.caches:
            here = (rows >= first) & (rows < first + len(cache))
            found[here] = cache[rows[here] - first]
            first += len(cache)
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < first:
            raise IndexError(f"rows {rows.tolist()} of {first} latents")
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Gives the worlds' caches, each of which leaves its table out."""
        return {"caches": self.caches}


def _shifted(progress: Progress | None, part: WorldPart, world: World) -> Progress | None:
    """Progress of a part as progress of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress(part.first_row + done, world.num_images)


def _is_whole(path: Path, num_images: int, key: str) -> bool:
    # Opening compares the header with the file's length, so a file cut short is refused here.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            part = file.get_slice(_NAME)
            whole = (part.get_shape()[0], part.get_dtype()) == (num_images, "F32")
            return whole and (file.metadata() or {}).get("key") == key
    except (SafetensorError, OSError):
        return False


@torch.no_grad()
def _encode_all(
    world: World, autoencoder: Part, batch_size: int, progress: Progress | None
) -> Tensor:
    """Encodes rows 0 .. R - 1 in order: [R, C, h, w] float32 on the CPU."""
    like = next(iter(autoencoder.parameters()), torch.zeros(()))
    was_training, parts, total = autoencoder.training, [], world.num_images
    autoencoder.train(False)
    try:
        for start in range(0, total, batch_size):
            rows = range(start, min(start + batch_size, total))
            images = to_unit(np.stack([world.image(row) for row in rows]))
            latents = autoencoder.encode(images.to(like.device, like.dtype))
            parts.append(latents.to("cpu", torch.float32))
            if progress is not None:
                progress(rows.stop, total)
    finally:
        autoencoder.train(was_training)
    table = torch.cat(parts).contiguous()
    if not table.isfinite().all():
        raise ValueError(
            "the autoencoder gives latents that are not finite; expected finite numbers: use "
            "float32 for it, or check its weights"
        )
    return table
