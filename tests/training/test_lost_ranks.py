"""One process of a run is killed, or does not answer, while the others live."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from started import TORCHRUN, last_step, ranks_of, started, until
from torch.distributed import TCPStore

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training import lost_ranks
from qk_lightning.training.lost_ranks import RankLost, end_with_launcher, wait_for_key

CONTEXT = multiprocessing.get_context("fork")


def serve(port: multiprocessing.Queue, sets: str, after: float) -> None:
    """Be the first rank: serve a store, set a key after a while, live on."""
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port.put(store.port)
    time.sleep(after)
    store.set(sets, "1")
    time.sleep(60)


@pytest.fixture
def first_rank():
    """Start a first rank; returns it and a store of another rank."""
    ranks = []

    def start(sets: str = "other", after: float = 0.0):
        port = CONTEXT.SimpleQueue()
        rank = CONTEXT.Process(target=serve, args=(port, sets, after), daemon=True)
        rank.start()
        ranks.append(rank)
        return rank, TCPStore("127.0.0.1", port.get(), timeout=timedelta(seconds=60))

    yield start
    for rank in ranks:
        rank.kill()
        rank.join()


def seconds_until_lost(store: TCPStore, said: str) -> float:
    """Wait for a key that never comes, and return how long that took."""
    began = time.monotonic()
    with pytest.raises(RankLost, match=said):
        wait_for_key(store, "ended")
    return time.monotonic() - began


def test_the_others_wait_for_the_first_rank(first_rank: Callable) -> None:
    _, store = first_rank("ended", 1.0)
    began = time.monotonic()
    wait_for_key(store, "ended")
    assert 0.5 < time.monotonic() - began < 10


def test_the_others_notice_that_the_first_rank_is_killed(first_rank: Callable) -> None:
    rank, store = first_rank()
    assert not store.check(["ended"])
    rank.kill()
    rank.join()
    assert seconds_until_lost(store, "the first rank is gone") < 10


def test_the_others_notice_that_the_first_rank_does_not_answer(
    first_rank: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_ranks, "SILENCE_SECONDS", 2.0)
    rank, store = first_rank()
    assert not store.check(["ended"])
    os.kill(rank.pid, signal.SIGSTOP)
    assert seconds_until_lost(store, "has not answered for 2 seconds") < 10


def launcher(answer: multiprocessing.Queue, listens: bool) -> None:
    """Be a launcher that starts one rank and is killed."""
    if os.fork():
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    lost_ranks.KEEP_SECONDS = 1.0
    signal.signal(signal.SIGTERM, lambda *_: answer.put("asked") if listens else None)
    end_with_launcher()
    time.sleep(30)
    answer.put("lives on")
    os._exit(0)


def test_a_rank_ends_when_its_launcher_is_killed() -> None:
    answer = CONTEXT.SimpleQueue()
    process = CONTEXT.Process(target=launcher, args=(answer, True))
    process.start()
    began = time.monotonic()
    assert answer.get() == "asked"
    assert time.monotonic() - began < 10
    process.join()


def test_lightning_still_has_what_is_switched_off() -> None:
    """A handler that starts a collective, and a broadcast before every micro-batch."""
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1)
    for owner, name in (
        (trainer._signal_connector, "register_signal_handlers"),
        (trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
    ):
        assert callable(getattr(owner, name))


WORDS = [
    "max_steps=400",
    "checkpoint_every=2",
    "validation.num_images=0",
    "trainer.devices=2",
    "trainer.strategy=fsdp",
    "trainer.accelerator=cpu",
]
FIT = ["fit", "tiny/stage1", *WORDS]
# The first rank draws until the test is over.
SCORING = [
    "max_steps=2",
    "validation.num_images=2",
    "sampling.num_inference_steps=200000",
    "trainer.devices=2",
    "trainer.strategy=fsdp",
]


def assert_over(command, run: RunFolder, began: float) -> None:
    """See that a command ended soon, that nothing runs on, and that the folder is free."""
    command.wait(60)
    until(lambda: not command.left(), 60, "end of the ranks")
    seconds = time.monotonic() - began
    print(f"over after {seconds:.1f} s: exit code {command.code}, state {run.state}")
    assert seconds < 60
    assert not run.lock().is_held


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("tiny_presets")
def test_one_rank_is_killed_and_the_run_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    run = plan_chain("tiny/stage1", WORDS)[0].folder
    for rank in (1, 0):
        with started(FIT, tmp_path / f"{rank}.txt") as command:
            first = run.last_checkpoint_step
            until(lambda c=command, f=first: c.is_over() or last_step(run) > f + 2)
            os.kill(ranks_of(run, command)[rank], signal.SIGKILL)
            assert_over(command, run, time.monotonic())
        print(command.said)
        log = run.path / "ranks" / str(rank) / "log.txt"
        cause = f"rank {rank}: its process was ended by SIGKILL (out of memory?) ({log})"
        assert f"qk fit: {cause}" in command.said
        assert "Traceback" not in command.said
        assert command.code == 1
        assert run.status["state"] == "failed"
        assert cause in run.status["error"]
        assert run.last_checkpoint_step > first


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("tiny_presets")
@pytest.mark.parametrize(
    ("number", "rank", "said"),
    [
        (signal.SIGKILL, 0, "rank 0: its process was ended by SIGKILL"),
        (signal.SIGKILL, 1, "rank 1: its process was ended by SIGKILL"),
        (signal.SIGSTOP, 0, "the first rank has not answered for 40 seconds"),
    ],
)
def test_a_rank_is_lost_while_the_first_one_scores(
    number: signal.Signals, rank: int, said: str, tmp_path: Path
) -> None:
    run = plan_chain("tiny/stage1", SCORING)[0].folder
    with started(["fit", "tiny/stage1", *SCORING], tmp_path / "log.txt") as command:
        until(lambda: command.is_over() or run.weights_json.is_file(), said=lambda: command.said)
        time.sleep(1)
        os.kill(ranks_of(run, command)[rank], number)
        assert_over(command, run, time.monotonic())
    assert said in command.said
    assert run.status["state"] == "failed"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("tiny_presets")
def test_one_process_is_killed_under_torchrun(tmp_path: Path) -> None:
    run = plan_chain("tiny/stage1", WORDS)[0].folder
    states = {"1": ("failed", "stopped"), "0": ("interrupted",), "agent": ("stopped",)}
    for target, expected in states.items():
        words = [*TORCHRUN, "-m", "qk_lightning", *FIT]
        with started(words, tmp_path / f"{target}.txt") as command:
            first = run.last_checkpoint_step
            until(lambda c=command, f=first: c.is_over() or last_step(run) > f + 2)
            command.is_over()  # notes what it has started
            pid = command.pid if target == "agent" else ranks_of(run, command)[int(target)]
            os.kill(pid, signal.SIGKILL)
            assert_over(command, run, time.monotonic())
        print(target, run.status.get("error"), command.said[-1500:])
        assert run.state in expected
        assert run.last_checkpoint_step > first
        if target != "agent":
            assert "Signal 9 (SIGKILL)" in command.said
