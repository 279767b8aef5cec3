"""What a run's speed is made of, that it is counted right, and that measuring changes nothing."""

from __future__ import annotations

import pytest
import torch
from test_run_stage import train, weights_of
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from qk_lightning.assembly.dry_run import meta_parts
from qk_lightning.assembly.flops import TrainingFlops, costs, estimated_flops
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.compose import compose
from qk_lightning.parts.connectors.enc_proj import EncProj
from qk_lightning.parts.connectors.mlp import MLP
from qk_lightning.parts.queries.learnable import Learnable
from qk_lightning.parts.vlms.qwen2_5_vl import Qwen25VL
from qk_lightning.sweeps.progress import describe_message
from qk_lightning.training.part_hooks import PartHooks

pytestmark = [pytest.mark.shared_root, pytest.mark.usefixtures("shared_presets")]
MASK = torch.ones(2, 10, dtype=torch.bool)


def test_measuring_changes_no_weight_and_no_other_metric() -> None:
    kept, messages = [], []
    for perf in ("true", "false"):
        plan = plan_chain("tiny/stage1", [f"trainer.perf={perf}", "validation.num_images=0"])[0]
        run = plan.write()
        from qk_lightning.sweeps.stage import run_stage

        run_stage(run.path, messages.append)
        rows = [row for row in run.metrics() if not row["metric"].startswith("perf/")]
        kept.append((run.identity, weights_of(run), rows, run.metrics(), run.status))
        run.remove()
    (identity, weights, rows, measured, status), (same, others, other_rows, plain, bare) = kept
    assert identity == same
    assert rows == other_rows == plain
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
    assert "flops_per_step" not in bare
    expected = {"data", "vlm", "head", "backward", "optimizer", "step"}
    for step in (2, 3, 4):  # the first one is counted, not timed
        found = {r["metric"]: r["value"] for r in measured if r["step"] == step}
        seconds = {k.split("/")[2]: v for k, v in found.items() if k.startswith("perf/seconds")}
        assert set(seconds) == expected
        assert sum(seconds.values()) <= 2 * seconds["step"]
        assert found["perf/images_per_second"] == pytest.approx(4 / seconds["step"])
        reached = status["flops_per_step"] / seconds["step"] / status["peak_flops"]
        assert found["perf/flops_utilization"] == pytest.approx(reached)
        assert 0.05 < found["perf/memory_gib"] < 64
    assert not [r for r in measured if r["step"] == 1 and r["metric"].startswith("perf/")]
    assert "of peak" in describe_message({"step": 1, "flops_utilization": 0.4})
    assert any("flops_utilization" in message for message in messages) or len(messages) < 3


@pytest.mark.parametrize("learns", ["inputs", "weights", "both"])
def test_a_products_backward_pass_is_what_torch_counts(learns: str) -> None:
    part = MLP(hidden_size=48, input_size=32, output_size=24)
    part.requires_grad_(learns != "inputs")
    states = torch.randn(2, 10, 32, requires_grad=learns != "weights")
    with TrainingFlops() as ours:
        part(states, MASK)
    with FlopCounterMode(display=False) as theirs:
        part(states, MASK).sum().backward()
    assert ours.total == theirs.get_total_flops()


def test_attention_is_counted_and_what_is_computed_again_is_not() -> None:
    part, states = EncProj(num_layers=3, num_heads=2, input_size=32, output_size=24), None
    states = torch.randn(2, 10, 32, requires_grad=True)
    matrices = 3 * 16 * 32**2 + 32 * 24 + 24**2
    forward = 2 * (2 * 10 * matrices + 3 * 2 * 2 * 10 * 10 * 32)
    with torch.no_grad(), TrainingFlops() as ours:
        part(states, MASK)
    assert ours.total == forward
    with TrainingFlops() as ours:
        checkpoint(part, states, MASK, use_reentrant=False)
    assert ours.total == 3 * forward


def test_a_frozen_prefix_is_counted_forward_only(tiny_vlm) -> None:
    vlm = Qwen25VL(path=str(tiny_vlm))
    vlm.load_base()
    vlm.requires_grad_(False)
    inputs = vlm.prepare(["a smiling person with red hair", "make the shirt green"])
    queries = torch.zeros(2, 3, vlm.hidden_size, requires_grad=True)
    counted = []
    for reading in (vlm.prefill, lambda inputs: vlm(inputs, queries)):
        with TrainingFlops() as ours:
            reading(inputs)
        counted.append(ours.total)
    prefix, whole = counted
    with torch.no_grad(), TrainingFlops() as ours:
        vlm(inputs, queries)
    read = ours.total - prefix
    assert prefix + 2 * read < whole < prefix + 3 * read  # no weight learns, attention is dearer


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_step_is_estimated_from_one_samples_passes(stage: str) -> None:
    cfg = compose(f"tiny/{stage}").cfg
    found = costs(meta_parts(cfg), cfg)
    each = {cost.name: cost.flops for cost in found}
    vlm = {  # frozen, or with LoRA
        "stage2": each["vlm prefix"] + 2 * each["vlm read"],
        "stage1": 2 * each["vlm prefix"] + 2 * each["vlm read"],
    }[stage]
    assert estimated_flops(found, cfg) == 4 * (vlm + 3 * each["connector"] + 3 * each["head"])


def test_every_way_into_a_part_is_followed_and_let_go_of() -> None:
    heard: list[str] = []
    hooks = PartHooks(lambda f: heard.append(f"+{f}"), lambda f: heard.append(f"-{f}"))
    bridge = MLP(hidden_size=48, input_size=32, output_size=24)
    queries = Learnable(num_queries=2, hidden_size=32)
    plain = vars(queries).keys() - {"_forward_hooks"}
    bridge.compile(backend="eager")  # hooks stay outside of what is compiled
    hooks.attach({"connector": bridge, "queries": queries})
    states = torch.randn(2, 10, 32)
    for _ in range(2):
        bridge(states, MASK)
    assert heard == ["+connector", "-connector"] * 2
    heard.clear()
    queries.combine(queries(2))
    assert heard == ["+queries", "-queries"] * 2
    with pytest.raises(TypeError):
        queries(None)
    assert heard[-2:] == ["+queries", "-queries"]
    hooks.detach()
    heard.clear()
    bridge(states, MASK)
    queries.combine(queries(2))
    assert not heard
    assert vars(queries).keys() - {"_forward_hooks"} == plain


@pytest.mark.slow
@pytest.mark.distributed
def test_shards_are_measured_and_not_changed() -> None:
    from two_ranks import copy_as, train_on

    overrides = ["max_steps=3", "validation.num_images=0", "validation.num_samples=0"]
    alone = train(plan_chain("tiny/stage1", overrides))[0]
    runs = [copy_as(alone, "fsdp", 2, perf=perf) for perf in (True, False)]
    for run in runs:
        train_on(run)
    weights, others = (weights_of(run) for run in runs)
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
    found = runs[0].last_metrics()
    assert {"perf/seconds/vlm", "perf/seconds/head", "perf/memory_gib"} <= set(found)
    ours, whole = runs[0].status["flops_per_step"], alone.status["flops_per_step"]
    assert ours == pytest.approx(whole, rel=0.05)  # half the samples on each, padded apart
