"""Two ranks killed (-9) at random moments, again and again: the end is bit for bit the same.

    KILLS=10 REAL_STARTS=1 python -m pytest -m slow -s tests/training/test_killed.py

kills as many times, in processes that start as from a terminal, and prints the moments.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from started import REAL, Started, last_step, ranks_of, started, until
from test_run_stage import weights_of
from two_ranks import losses

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.run_folder import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.shared_root,
]
KILLS = int(os.environ.get("KILLS", "3"))
STEPS = 30 + 6 * KILLS
WORDS = [
    f"max_steps={STEPS}",
    "checkpoint_every=2",
    "validation.num_images=0",
    "trainer.strategy=fsdp",
    "trainer.accelerator=cpu",
]
TWO = ["fit", "tiny/stage1", *WORDS, "trainer.devices=2"]
ONE = ["fit", "tiny/stage1", *WORDS, "trainer.devices=1"]
TARGETS = ("group", "parent", "rank 0", "rank 1")
LOADING_SECONDS = 20.0 if REAL else 2.0


@pytest.fixture(scope="module")
def straight(
    shared_presets: Path, module_root: Path
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The weights and the losses of a run on two ranks that nobody kills; it is removed."""
    run = plan_chain("tiny/stage1", WORDS)[0].folder
    finish(TWO, module_root / "straight.txt")
    expected = weights_of(run), losses(run)
    run.remove()
    return expected


@pytest.fixture
def run(straight: object) -> RunFolder:
    """The folder of the run."""
    return plan_chain("tiny/stage1", WORDS)[0].folder


def finish(words: list[str], log: Path) -> None:
    """Run a command to its end."""
    with started(words, log) as command:
        assert command.wait() == 0, command.said


def kill(command: Started, run: RunFolder, target: str) -> None:
    """Kill a process of a run, or all, and wait until nothing of it is left."""
    command.is_over()
    if target == "group":
        os.killpg(command.pid, signal.SIGKILL)
    elif target == "parent" or not ranks_of(run, command):
        os.kill(command.pid, signal.SIGKILL)
    else:
        os.kill(ranks_of(run, command)[int(target[-1])], signal.SIGKILL)
    command.wait(60)
    until(lambda: not command.left(), 60, f"end of {command.left()}")


def test_killed_at_random_moments_two_ranks_end_as_if_nothing_had_been(
    run: RunFolder, straight: tuple[dict[str, torch.Tensor], list[float]], tmp_path: Path
) -> None:
    chance = random.Random(6)
    for count in range(KILLS):
        log, first = tmp_path / f"{count}.txt", run.last_checkpoint_step
        target, steps = chance.choice(TARGETS), chance.randint(0, 5)
        wait = chance.uniform(0, 0.3) if steps else chance.uniform(0, LOADING_SECONDS)
        began = time.monotonic()
        with started(TWO, log) as command:
            if steps:
                until(
                    lambda c=command, s=first + steps: c.is_over() or last_step(run) >= s,
                    what="step",
                    said=lambda c=command: c.said,
                )
            time.sleep(wait)
            assert not command.is_over(), command.said
            seconds, step = time.monotonic() - began, max(first, last_step(run))
            kill(command, run, target)
        assert not run.is_done
        assert run.state in ("interrupted", "failed", "planned", "?"), run.status
        kept = run.last_checkpoint_step
        print(f"{target} killed after {seconds:.1f} s at step {step}; goes on from {kept}")
    finish(TWO, tmp_path / "end.txt")
    expected, metrics = straight
    resumed = weights_of(run)
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert losses(run) == metrics
    assert len(metrics) == STEPS
    run.remove()


def test_killed_on_two_ranks_one_process_goes_on(
    run: RunFolder, straight: tuple[dict[str, torch.Tensor], list[float]], tmp_path: Path
) -> None:
    with started(TWO, tmp_path / "two.txt") as command:
        until(lambda: command.is_over() or run.last_checkpoint_step >= STEPS - 26)
        kill(command, run, "group")
    first = run.last_checkpoint_step
    assert STEPS - 26 <= first <= STEPS - 20
    finish(ONE, tmp_path / "one.txt")
    assert run.config.trainer.devices == 1
    weights, metrics = straight
    ours = losses(run, first)[:20]  # by step: a kill just after a checkpoint takes its row along
    worst = max(abs(a - b) for a, b in zip(ours, metrics[first : first + 20], strict=True))
    resumed = weights_of(run)
    apart = max(float((resumed[name] - weights[name]).abs().max()) for name in weights)
    largest = max(float(weights[name].abs().max()) for name in weights)
    print(f"from step {first}: 20 losses differ by {worst:.1e}, weights after {STEPS - first} "
          f"steps by {apart:.1e} (largest {largest:.1f})")  # fmt: skip
    assert worst < 1e-5
    run.remove()
