"""What all parts share: folders, strict loading, the meta device, contradictions."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qk_lightning.parts.base import (
    Part,
    check_architecture,
    find_folder,
    load_weights,
    read_config,
    read_weights,
)


class Tiny(Part):
    def __init__(self, *, path: str | None = None, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.linear = nn.Linear(width, width)


def test_export_is_what_path_reads_back(tmp_path):
    part = Tiny()
    part.export(tmp_path)
    again = Tiny(path=str(tmp_path))
    assert again.load_base()
    torch.testing.assert_close(again.linear.weight, part.linear.weight)
    assert read_config(tmp_path)["width"] == 3
    assert read_config(tmp_path)["version"] == Tiny.version


def test_without_a_path_nothing_is_loaded():
    assert Tiny().load_base() is False


def test_loading_makes_a_meta_part_real_in_float32_and_keeps_it_trainable(tmp_path):
    part = Tiny()
    save_file({k: v.half() for k, v in part.state_dict().items()}, tmp_path / "model.safetensors")
    with torch.device("meta"):
        again = Tiny(path=str(tmp_path))
    assert again.load_base()
    assert again.linear.weight.dtype == torch.float32 and again.linear.weight.requires_grad
    torch.testing.assert_close(again.linear.weight, part.linear.weight.half().float())


def test_sharded_files_with_an_index_are_joined(tmp_path):
    for name in ("a", "b"):
        save_file({name: torch.ones(2)}, tmp_path / f"part-{name}.safetensors")
    index = {"weight_map": {"a": "part-a.safetensors", "b": "part-b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(read_weights(tmp_path)) == {"a", "b"}


def test_everything_that_does_not_fit_is_listed():
    state = {"linear.weight": torch.ones(2, 2), "stranger": torch.ones(1)}
    with pytest.raises(ValueError) as error:
        load_weights(Tiny(), state, origin="here")
    for words in ("here", "missing linear.bias", "unexpected stranger", "(2, 2), expected (3, 3)"):
        assert words in str(error.value)


def test_a_wrong_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        read_weights(tmp_path)
    with pytest.raises(ValueError, match="has no config.json"):
        read_config(tmp_path)
    with pytest.raises(ValueError, match="builtin:nothing_of_that_name"):
        find_folder("builtin:nothing_of_that_name")
    with pytest.raises(ValueError, match="no_such_folder"):
        find_folder("./no_such_folder")
    assert find_folder("some-org/some-model") is None
    assert find_folder(str(tmp_path)) == tmp_path


def test_contradictions_are_listed_and_defaults_are_not_compared():
    check_architecture(Tiny, {"width": 3}, {"width": 8}, "folder")
    check_architecture(Tiny, {"width": 8}, {"width": 8}, "folder")
    with pytest.raises(ValueError, match="width: 5, but folder says 8"):
        check_architecture(Tiny, {"width": 5}, {"width": 8}, "folder")


def test_export_clones_so_that_shared_memory_does_not_fail(tmp_path):
    part = Tiny()
    part.linear.bias = nn.Parameter(part.linear.weight.detach()[0])
    part.export(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"linear.weight", "linear.bias"}
