"""What a folder of weights holds decides a run's identity; how it was made does not."""

from __future__ import annotations

import os
import zipfile

import pytest

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.identity import fingerprint


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"numbers")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["CARD.md", "README.md", "run.yaml"])
def test_notes_beside_weights_count_for_nothing(folder, name):
    before = fingerprint(folder)
    (folder / name).write_text("trained on a Tuesday")
    assert fingerprint(folder) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "another.json"])
def test_any_other_file_counts(folder, name):
    before = fingerprint(folder)
    (folder / name).write_text("[]")
    assert fingerprint(folder) != before


def test_a_copy_at_another_time_is_the_same(folder, tmp_path):
    before = fingerprint(folder)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert fingerprint(folder.rename(tmp_path / "elsewhere")) == before


def test_a_large_file_is_told_by_its_size_its_head_and_its_tail(folder):
    large = folder / "model.safetensors"
    with large.open("wb") as file:
        file.truncate(65 * 2**20)
    found = [fingerprint(folder)]
    for place in (0, 65 * 2**20 - 1):
        with large.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        found.append(fingerprint(folder))
    with large.open("ab") as file:
        file.truncate(66 * 2**20)
    assert len({*found, fingerprint(folder)}) == 4


def test_a_checkpoint_of_its_own_leaves_a_stage_with_a_parent_the_same_run(root):
    own, other = plan_chain("laptop/stage2")[-1], plan_chain("laptop/stage2", ["seed=1"])[-1]
    for plan in (own, other):
        file = plan.folder.checkpoints / "step=2.ckpt"
        file.parent.mkdir(parents=True)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", plan.identity)
        again = plan_chain("laptop/stage2", [f"stage2.resume={file}"])[-1]
        assert (again.identity == own.identity) == (plan is own)
