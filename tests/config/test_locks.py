"""The folder lock: one holder at a time, the dead make way."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from qk_lightning.config import locks
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.locks import STALE_SECONDS, FolderLock, LockHeld


def test_a_held_lock_is_refused_or_waited_for(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(LockHeld, match="uses"):
        FolderLock(tmp_path, wait=False).__enter__()
    with FolderLock(tmp_path, wait=False) as lock:
        assert lock.holder() is not None
    assert not (tmp_path / ".lock").exists()


def hold_forever(folder: Path) -> None:
    FolderLock(folder).__enter__()
    os._exit(9)


def test_the_lock_of_a_dead_process_is_freed_at_once(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=hold_forever, args=(tmp_path,))
    child.start()
    child.join(20)
    assert (tmp_path / ".lock").exists()
    with FolderLock(tmp_path, wait=False) as lock:
        assert lock.holder()["pid"] == str(os.getpid())


def test_a_lock_of_another_host_is_freed_when_its_heart_stops(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    file.write_text(json.dumps({"host": "elsewhere", "pid": "1", "token": "t"}))
    with pytest.raises(LockHeld):
        FolderLock(tmp_path, wait=False).__enter__()
    old = time.time() - STALE_SECONDS - 1
    os.utime(file, (old, old))
    with FolderLock(tmp_path, wait=False):
        pass


def test_hosts_whose_clocks_differ_see_the_same_heart_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".lock"
    file.write_text(json.dumps({"host": "elsewhere", "pid": "1", "token": "t"}))
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 10 * STALE_SECONDS)
    assert FolderLock(tmp_path).is_held
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


def test_a_process_of_another_container_of_one_name_is_not_looked_for_here(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        entry = json.loads((tmp_path / ".lock").read_text())
        entry |= {"pid": "999999999", "space": "another", "token": "t"}
        (tmp_path / ".lock").write_text(json.dumps(entry))
        assert FolderLock(tmp_path).is_held
        old = time.time() - STALE_SECONDS - 1
        os.utime(tmp_path / ".lock", (old, old))
        assert not FolderLock(tmp_path).is_held


def test_the_heart_beats_for_its_own_lock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    with FolderLock(tmp_path):
        entry = json.loads((tmp_path / ".lock").read_text())
        old = time.time() - STALE_SECONDS
        os.utime(tmp_path / ".lock", (old, old))
        deadline = time.monotonic() + 10
        while (tmp_path / ".lock").stat().st_mtime < old + 1:
            assert time.monotonic() < deadline
        (tmp_path / ".lock").write_text(json.dumps(entry | {"token": "another"}))
        os.utime(tmp_path / ".lock", (old, old))
        time.sleep(0.2)
        assert (tmp_path / ".lock").stat().st_mtime == pytest.approx(old, abs=1)


def count(folder: Path, rounds: int) -> None:
    for _ in range(rounds):
        with FolderLock(folder, poll_seconds=0.001):
            file = folder / "count"
            value = int(file.read_text())
            time.sleep(0.001)
            file.write_text(str(value + 1))


def test_no_two_processes_are_inside_even_after_a_death(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    dead = context.Process(target=hold_forever, args=(tmp_path,))
    dead.start()
    dead.join(20)
    children = [context.Process(target=count, args=(tmp_path, 10)) for _ in range(5)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert (tmp_path / "count").read_text() == "50"


@pytest.mark.parametrize("content", ["", "[1]", "5", "{}", '{"host": 1, "pid": "x", "token": ""}'])
def test_a_damaged_lock_is_named_and_freed_after_a_minute(content: str, tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    file.write_text(content)
    with pytest.raises(LockHeld, match=f"is damaged; .* rm {file}"):
        FolderLock(tmp_path, wait=False).__enter__()
    old = time.time() - STALE_SECONDS - 1
    os.utime(file, (old, old))
    with FolderLock(tmp_path, wait=False):
        pass


def test_a_folder_in_the_place_of_a_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ConfigError, match="a file, not a folder"):
        FolderLock(tmp_path).__enter__()
