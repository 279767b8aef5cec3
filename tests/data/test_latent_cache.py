from __future__ import annotations

import multiprocessing
import os
import pickle
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_world import TinyWorld
from torch import nn

from qk_lightning.data.collate import Collate, to_unit
from qk_lightning.data.latent_cache import LatentCache, latent_key
from qk_lightning.data.mixture import Draw
from qk_lightning.parts.autoencoders.kl import KL
from qk_lightning.parts.autoencoders.pixels import Pixels
from qk_lightning.parts.base import Part


class Codec(Part):
    """Halves the picture; counts its calls in a file."""

    def __init__(self, log=None, seconds=0.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.log, self.seconds = log, seconds

    def encode(self, images):
        assert not self.training and not torch.is_grad_enabled()
        time.sleep(self.seconds)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {len(images)}\n")
        return images[:, :2, ::2, ::2] * self.scale


def test_rows_are_the_encoded_images():
    world, codec, seen = TinyWorld(), Codec().train(), []
    cache = LatentCache.open(world, codec, 8, lambda done, total: seen.append((done, total)))
    assert seen == [(8, 20), (16, 20), (20, 20)] and codec.training
    assert (len(cache), cache.shape) == (20, (2, 2, 2)) and cache.table.dtype == torch.float32
    for row in (0, 7, 19):
        expected = to_unit(world.image(row))[:2, ::2, ::2] * 0.5
        torch.testing.assert_close(cache[[row]][0], expected)
    assert cache[torch.tensor([3, 3, 1])].shape == (3, 2, 2, 2)


def test_reading_never_gives_a_view_of_the_table():
    cache = LatentCache.open(TinyWorld(), Codec())
    cache[[1]].fill_(9.0)
    assert not (cache[[1]] == 9.0).any()


def test_half_precision_is_stored_as_float32():
    cache = LatentCache.open(TinyWorld(), Codec().bfloat16())
    assert cache.table.dtype == torch.float32


def test_a_finished_file_is_read_without_encoding_or_locking(root, monkeypatch):
    LatentCache.open(TinyWorld(), Codec())
    monkeypatch.setattr("qk_lightning.data.disk_cache.FolderLock", None)
    LatentCache.open(TinyWorld(), Codec(root / "log"))
    assert not (root / "log").exists()


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


def _empty(path):
    path.write_bytes(b"")


def _fewer_rows(path):
    save_file(
        {"latents": load_file(path)["latents"][:5].clone()},
        path,
        {"key": latent_key(TinyWorld(), Codec())},
    )


def _other_key(path):
    save_file({"latents": load_file(path)["latents"].clone()}, path, {"key": "other"})


@pytest.mark.parametrize("damage", [_truncate, _empty, _fewer_rows, _other_key])
def test_a_damaged_file_is_made_anew(damage):
    first = LatentCache.open(TinyWorld(), Codec())
    expected = first.table.clone()
    damage(first.path)
    with pytest.warns(UserWarning, match="made anew"):
        again = LatentCache.open(TinyWorld(), Codec())
    assert torch.equal(again.table, expected)


def test_nothing_stays_behind_when_encoding_fails(root):
    codec = Codec()
    codec.scale.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        LatentCache.open(TinyWorld(), codec)
    assert not list((root / "runs/cache/latents").iterdir())


def _key(codec, world=None):
    return latent_key(world or TinyWorld(), codec)


def _small_kl(**changes):
    torch.manual_seed(0)
    return KL(**{"block_out_channels": [8, 8], "latent_channels": 4, **changes})


def test_the_key_follows_world_weights_and_settings():
    keys = {
        _key(Codec()),
        _key(Codec(), TinyWorld(8)),
        _key(Codec().bfloat16()),
        _key(Pixels(patch=2)),
        _key(Pixels(patch=2, scale=0.5)),
    }
    other = Codec()
    other.scale.data += 1e-6
    newer = Codec()
    newer.version = 2
    keys |= {_key(other), _key(newer)}
    assert len(keys) == 7 and _key(Codec(log="anywhere")) in keys


def test_the_key_follows_statistics_and_not_where_the_codec_lies(tmp_path):
    codec = _small_kl()
    without = _key(codec)
    codec.set_statistics([0.1] * 4, [2.0] * 4)
    assert _key(codec) != without
    for name in ("one", "two"):
        codec.export(tmp_path / name)
        again = KL(path=str(tmp_path / name))
        assert _key(again) != _key(codec)  # its weights are still random
        again.load_base()
        assert _key(again) == _key(codec)


SOURCE = """
from qk_lightning.parts.base import Part


class Mine(Part):
    def encode(self, images):
        return images{}
"""


def test_the_key_follows_the_source_of_the_class(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_codec.py"
    file.write_text(SOURCE.format(""))
    from my_codec import Mine

    first = _key(Mine())
    file.write_text(SOURCE.format(" * 2"))
    assert _key(Mine()) != first
    nowhere = {}
    exec(SOURCE.format(""), {"__name__": "typed_in"}, nowhere)
    with pytest.raises(ValueError, match=r"Mine is in no file.*cache_latents"):
        _key(nowhere["Mine"]())


def _open_in_child(log, queue):
    torch.set_num_threads(1)
    cache = LatentCache.open(TinyWorld(), Codec(log, seconds=0.1), batch_size=5)
    queue.put((os.getpid(), float(cache.table.sum())))


@pytest.mark.distributed
def test_of_two_processes_one_encodes_and_the_other_waits(root):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    args = (root / "log", queue)
    children = [context.Process(target=_open_in_child, args=args) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    (one, sum_one), (two, sum_two) = queue.get(), queue.get()
    calls = (root / "log").read_text().splitlines()
    assert one != two and sum_one == sum_two
    assert len(calls) == 4 and len({call.split()[0] for call in calls}) == 1


def test_a_worker_gets_the_path_not_the_table():
    cache = LatentCache.open(TinyWorld(), Codec())
    assert cache.table is not None
    assert len(pickle.dumps(cache)) < 500
    assert torch.equal(pickle.loads(pickle.dumps(cache))[[2]], cache[[2]])


def test_batches_carry_latents():
    world = TinyWorld()
    cache = LatentCache.open(world, Codec())
    batch = Collate(world, cache)([Draw("editing", 7, 0), Draw("editing", 9, 1)])
    assert torch.equal(batch.target_latents, cache[[7, 9]])
    assert batch.image_latents.shape == (2, 2, 2, 2, 2)
    assert torch.equal(batch.image_latents[1], cache[[9, 10]])
    assert Collate(world, cache)([Draw("text_to_image", 0, 0)]).image_latents is None
