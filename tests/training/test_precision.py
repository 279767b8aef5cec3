"""What a rank holds and computes in: bytes against theory, bf16-mixed against one process."""

from __future__ import annotations

import pytest
import torch
from test_run_stage import train
from torch.distributed.device_mesh import init_device_mesh
from two_ranks import copy_as, losses, on_ranks, train_on

from qk_lightning.assembly import shard
from qk_lightning.assembly.build import open_world
from qk_lightning.assembly.dry_run import dry_run
from qk_lightning.assembly.memory import Weight, expected_bytes, weights_of
from qk_lightning.assembly.shard import is_sharded
from qk_lightning.assembly.weights import first_entry
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.compose import compose
from qk_lightning.systems.base import build_system
from qk_lightning.systems.query_kontext import QueryKontext
from qk_lightning.training.ema import EMACallback
from qk_lightning.training.ranks import join

pytestmark = [
    pytest.mark.shared_root,
    pytest.mark.usefixtures("shared_presets"),
    pytest.mark.filterwarnings("ignore"),
]
HEAD = "head={name: flux, num_layers: 2, num_single_layers: 4, num_attention_heads: 8}"
CASES = {
    "stage 1, LoRA": ("tiny/stage1", []),
    "frozen VLM": ("tiny/stage2", []),
    "stage 3": ("tiny/stage3", []),
    "stage 3, full head": ("tiny/stage3", ["trainable.head=full"]),
}


class Steps:
    """As much of a Trainer as the average asks for."""

    is_global_zero, global_step = True, 0


def held_bytes(module, optimizer, average) -> dict[str, int]:
    """Measure what this rank holds before gradients are cleared, as `expected_bytes` tells it."""
    parameters = list(module.parameters())
    moments = [v for state in optimizer.state.values() for v in state.values()]
    held = {
        "weights": parameters,
        "gradients": [p.grad for p in parameters if p.grad is not None],
        "optimizer": [v for v in moments if isinstance(v, torch.Tensor)],
        "average": average.values(),
    }
    own = {kind: [t.to_local() if is_sharded(t) else t for t in held[kind]] for kind in held}
    return {kind: sum(t.numel() * t.element_size() for t in own[kind]) for kind in own}


def after_a_step(preset: str, overrides: list[str], count: int):
    """Train one step on this rank; return what it holds, what it should, and the dtypes."""
    shard.REPLICATED = 20_000  # the tiny VLM counts as large
    cfg = compose(preset, overrides).cfg
    system = build_system(cfg, [first_entry(f, cfg[f], 0) for f in QueryKontext.families])
    ranks = join(cfg.trainer)
    system.waits_for_mesh = ranks.joined
    system.configure_model()
    expected = expected_bytes(weights_of(system.parts, cfg.trainer), count, ranks.rank, True)
    if ranks.joined:
        names = ("data_parallel", "tensor_parallel")
        system._device_mesh = init_device_mesh("cpu", (count, 1), mesh_dim_names=names)
        system.configure_model()
    world = open_world(cfg.data.world)
    world.prepare()
    system.log = lambda *args, **kwargs: None
    task = "editing" if preset == "tiny/stage3" else "reconstruction"
    batch = system.data_module(world, None).val_batches(task, 2, 2)[0]
    optimizer, average = system.configure_optimizers()["optimizer"], EMACallback(0.9)
    average.on_train_start(Steps, system)
    used: dict[str, set[str]] = {"linear": set(), "norm": set()}
    for unit in (*system.vlm.shard_units(), *system.head.shard_units()):
        for module in unit.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor):
                dtypes = used["linear" if weight.ndim > 1 else "norm"]
                module.register_forward_hook(lambda m, *_, to=dtypes: to.add(str(m.weight.dtype)))
    mixed = cfg.trainer.precision == "bf16-mixed"
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = system.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    held = held_bytes(system, optimizer, average.shadow)
    learns = [p for p in system.parameters() if p.requires_grad]
    kinds = {
        "loss": {str(loss.dtype)},
        "weights": {str(p.dtype) for p in learns},
        "gradients": {str(p.grad.dtype) for p in learns if p.grad is not None},
        "moments": {str(v["exp_avg"].dtype) for v in optimizer.state.values()},
        "average": {str(t.dtype) for t in average.shadow.values()},
    }
    kinds |= {f"used in a {kind}": dtypes for kind, dtypes in used.items()}
    silent = sum(p.grad is None for p in learns)
    shards = sum(is_sharded(p) for p in learns)
    return held, expected, kinds, loss.item(), (silent, shards, len(learns))


def on_two(preset: str, overrides: list[str]):
    fsdp = ["trainer.strategy=fsdp", "trainer.devices=2"]
    return on_ranks(after_a_step, preset, [*overrides, *fsdp], 2)


def test_bytes_are_those_of_the_rows_that_a_rank_has():
    weights = [
        Weight((5, 3), 4, True, True),
        Weight((7,), 2, False, False),
        Weight((1, 2), 4, True, True),
    ]
    whole = expected_bytes(weights, averaged=True)
    assert whole == {"weights": 60 + 14 + 8, "gradients": 68, "optimizer": 144, "average": 68}
    parts = [expected_bytes(weights, 3, rank) for rank in range(3)]
    assert [part["gradients"] for part in parts] == [2 * 12 + 8, 2 * 12, 12]
    assert [part["weights"] for part in parts] == [32 + 14, 24 + 14, 12 + 14]
    assert all(part["average"] == 0 for part in parts)


def test_a_dry_run_tells_what_a_rank_holds(monkeypatch):
    monkeypatch.setattr(shard, "REPLICATED", 20_000)
    alone = dry_run(compose("tiny/stage2").cfg)
    both = dry_run(compose("tiny/stage2", ["trainer.strategy=fsdp", "trainer.devices=2"]).cfg)
    assert 0.5 < both.memory["optimizer"] / alone.memory["optimizer"] < 0.52
    assert 0.5 < both.memory["weights"] / alone.memory["weights"] < 0.8  # the autoencoder is whole
    assert "memory of each of 2 ranks, of the largest shards" in both.describe()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_ranks_hold_what_they_should(case):
    preset, overrides = CASES[case]
    overrides = [*overrides, HEAD] if "3" not in case else overrides
    alone = after_a_step(preset, overrides, 1)
    for rank, (held, expected, _, _, (silent, shards, learns)) in enumerate(
        on_two(preset, overrides)
    ):
        assert shards == learns
        for kind, count in expected.items():
            print(f"| {case} | {rank} | {kind} | {alone[0][kind]:,} | {count:,} | {held[kind]:,} |")
        assert held["weights"] == expected["weights"] and held["average"] == expected["average"]
        if not silent:
            assert held == expected
        assert expected["gradients"] >= held["gradients"] > 0.9 * expected["gradients"]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("preset", ["tiny/stage1", "tiny/stage3"])
def test_mixed_precision_keeps_float32_where_it_matters(preset):
    mixed = ["trainer.precision=bf16-mixed"]
    alone = after_a_step(preset, mixed, 1)
    float32 = after_a_step(preset, [], 1)[3]
    recomputed = on_two(preset, [*mixed, "trainer.activation_checkpointing=[vlm,head]"])
    for (_, _, kinds, loss, _), again in zip(on_two(preset, mixed), recomputed, strict=True):
        assert kinds.pop("used in a linear") == {"torch.bfloat16"}  # gathered so
        assert kinds == dict.fromkeys(kinds, {"torch.float32"})
        print(f"loss: float32 {float32:.6f}, mixed alone {alone[3]:.6f}, on two ranks {loss:.6f}")
        assert loss == pytest.approx(alone[3], rel=1e-2) and loss != float32
        assert again[3] == loss


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_ranks_train_in_half_precision_as_one_process_does(precision, monkeypatch):
    monkeypatch.setattr(shard, "REPLICATED", 20_000)
    overrides = [f"trainer.precision={precision}", "max_steps=4", "validation.num_images=0"]
    alone = train(plan_chain("tiny/stage1", overrides))[0]
    run = copy_as(alone, "fsdp", 2)
    train_on(run)
    worst = max(abs(a - b) / b for a, b in zip(losses(run), losses(alone), strict=True))
    print(f"{precision}: losses of 4 steps differ by {worst:.1e} of themselves")
    assert len(losses(run)) == 4 and worst < 2e-2
