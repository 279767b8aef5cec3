"""One process, two ranks with the whole model (ddp), two with shards (fsdp): the same training."""

from __future__ import annotations

import pytest
import torch
from test_run_stage import train, weights_of
from two_ranks import copy_as, losses, train_on

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.preflight import check
from qk_lightning.sweeps.stage import run_stage

pytestmark = [
    pytest.mark.slow,  # test_launch and test_rank_check are quick
    pytest.mark.shared_root,
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore"),
]
STEPS, HALF = 20, 15
QUICK = [
    f"all.max_steps={STEPS}",
    f"all.trainer.checkpoint_every={HALF}",
    "all.validation.num_images=0",
    "all.validation.num_samples=2",
    "stage2.data.groups_per_step=1",
    "stage3.data.groups_per_step=1",
]
LORA, FROZEN_VLM, REFINE = range(3)  # the stages of the chain


@pytest.fixture(scope="module")
def patched():
    """All checkpoints are kept, and the frozen VLM is sharded too, small as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qk_lightning.assembly.shard.REPLICATED", 20_000)
        patch.setattr("qk_lightning.sweeps.stage.keep_newest", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def chain(shared_presets, patched):
    """Three stages trained by one process."""
    return train(plan_chain("tiny/stage3", QUICK))


@pytest.fixture(scope="module")
def sharded(chain):
    """The first stage on two ranks with shards."""
    run = copy_as(chain[LORA], "fsdp", 2)
    train_on(run)
    return run


def assert_same(run, alone, first=0):
    """See that a run's losses after a step, and its weights, are those of one process."""
    ours, expected = losses(run, first), losses(alone, first)
    assert len(expected) == STEPS - first
    worst = max(abs(a - b) for a, b in zip(ours, expected, strict=True))
    print(f"{run.name}: losses differ by {worst:.1e}")
    assert worst < 1e-5, (ours, expected)
    val = run.last_metrics()["val/loss"]
    assert val == pytest.approx(alone.last_metrics()["val/loss"], abs=1e-5)
    trained = weights_of(run)
    for name, tensor in weights_of(alone).items():  # averaged ones: the chain has EMA
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-4)


def test_lora_on_sharded_ranks(chain, sharded):
    assert_same(sharded, chain[LORA])


@pytest.mark.parametrize(
    ("stage", "strategy"),
    [
        pytest.param(FROZEN_VLM, "fsdp"),
        (REFINE, "fsdp"),  # its VLM is frozen too
        pytest.param(LORA, "ddp"),
        pytest.param(FROZEN_VLM, "ddp"),
        pytest.param(REFINE, "ddp"),
    ],
)
def test_ranks_train_as_one_process_does(chain, stage, strategy):
    run = copy_as(chain[stage], strategy, 2)
    train_on(run)
    assert_same(run, chain[stage])


def test_ranks_validate_in_step_and_draw(chain):
    overrides = ["max_steps=4", "validation.every=2", "validation.num_images=0"]
    alone = train(plan_chain("tiny/stage1", overrides))[0]
    run = copy_as(alone, "fsdp", 2)
    train_on(run)
    ours, expected = ([r for r in of.metrics() if r["metric"] == "val/loss"] for of in (run, alone))
    assert [row["step"] for row in expected] == [2, 4]
    for row, one in zip(ours, expected, strict=True):
        assert row["value"] == pytest.approx(one["value"], abs=1e-5)
    names = [sorted(file.name for file in of.samples.iterdir()) for of in (run, alone)]
    assert names[0] == names[1] == ["step_000002.png", "step_000004.png"]
    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)


def half_way(run, strategy, devices):
    """Return a copy of a run that was stopped after its first checkpoint."""
    copy = copy_as(run, strategy, devices)
    copy.checkpoints.mkdir()
    name = f"step={HALF}.ckpt"
    (copy.checkpoints / name).write_bytes((run.checkpoints / name).read_bytes())
    return copy


def test_one_process_goes_on_with_what_ranks_began(chain, sharded):
    run = half_way(sharded, "auto", 1)
    run_stage(run.path)
    assert_same(run, chain[LORA], HALF)


def test_ranks_go_on_with_what_one_process_began(chain):
    run = half_way(chain[LORA], "fsdp", 2)
    train_on(run)
    assert_same(run, chain[LORA], HALF)


def test_ddp_goes_on_with_what_fsdp_began(chain, sharded):
    run = half_way(sharded, "ddp", 2)
    train_on(run)
    assert_same(run, chain[LORA], HALF)


def test_fsdp_goes_on_with_what_ddp_began(chain):
    begun = copy_as(chain[LORA], "ddp", 2)
    train_on(begun)
    run = half_way(begun, "fsdp", 2)
    train_on(run)
    assert_same(run, chain[LORA], HALF)


def test_checkpoints_hold_the_same_whoever_wrote_them(chain, sharded):
    name = f"step={HALF}.ckpt"
    alone, ours = (
        torch.load(run.checkpoints / name, weights_only=True) for run in (chain[LORA], sharded)
    )
    assert alone.keys() == ours.keys()
    assert alone["optimizer_names"] == ours["optimizer_names"]
    assert list(alone["state_dict"]) == list(ours["state_dict"])
    for number, values in alone["optimizer_states"][0]["state"].items():
        for key, value in values.items():
            found = ours["optimizer_states"][0]["state"][number][key]
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5)
    assert ours["callbacks"].keys() == alone["callbacks"].keys()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.devices=3"], "a multiple of data.groups_per_step x ranks"),
        (["trainer.devices=2", "trainer.micro_batch_size=2"], "a divisor of 1"),
        (["trainer.strategy=deepspeed"], "trainer.strategy"),
    ],
)
def test_what_does_not_divide_is_refused(chain, overrides, said):
    with pytest.raises(ConfigError) as caught:
        check(plan_chain("tiny/stage1", overrides))
    assert said in str(caught.value)


def test_a_system_of_one_device_is_refused(chain):
    with pytest.raises(ConfigError, match=r"trainer\.devices = 2(.|\n)*expected 1"):
        plan_chain("laptop/codec_kl", ["trainer.devices=2"])
