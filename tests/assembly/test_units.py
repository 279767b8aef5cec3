"""Recomputing blocks changes no gradient and no name, whoever trains; what has no block is told."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.assembly import units
from qk_lightning.assembly.build import open_world
from qk_lightning.assembly.weights import first_entry
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError
from qk_lightning.data.sample import Batch
from qk_lightning.systems.base import build_system
from qk_lightning.systems.query_kontext import QueryKontext

pytestmark = [pytest.mark.shared_root, pytest.mark.usefixtures("shared_presets")]
RECOMPUTE = "trainer.activation_checkpointing=[vlm,head]"
VLM_LAYERS = 2


def build(preset: str, *overrides: str) -> tuple[QueryKontext, Batch]:
    """Build a stage with its own random weights, and one batch that it trains on."""
    cfg = compose(preset, overrides).cfg
    entries = [first_entry(family, cfg[family], 0) for family in QueryKontext.families]
    system = build_system(cfg, entries)
    system.configure_model()
    with torch.no_grad():  # or LoRA's B is zero, and A gets no gradient
        for name, parameter in system.named_parameters():
            if ".lora_B" in name:
                parameter.fill_(0.1)
    world = open_world(cfg.data.world)
    world.prepare()
    system.log = lambda *args, **kwargs: None
    task = "editing" if preset == "tiny/stage3" else "reconstruction"
    return system, system.data_module(world, None).val_batches(task, 2, 2)[0]


def gradients(system: QueryKontext, batch: Batch) -> dict[str, torch.Tensor]:
    system.training_step(batch, 0).backward()
    return {name: p.grad for name, p in system.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
@pytest.mark.filterwarnings("ignore")
def test_recomputed_gradients_are_those_of_the_plain_run(stage, monkeypatch):
    plain, batch = build(f"tiny/{stage}")
    system, _ = build(f"tiny/{stage}", RECOMPUTE)
    runs: list[str] = []
    for family in ("vlm", "head"):
        unit = system.parts[family].shard_units()[-1]
        unit.register_forward_hook(lambda *_, family=family: runs.append(family))
        norm = next(m for n, m in unit.named_modules() if n and not list(m.children()))
        norm.register_forward_hook(lambda *_, family=family: runs.append(f"{family} inside"))
    expected, found = gradients(plain, batch), gradients(system, batch)
    assert list(system.state_dict()) == list(plain.state_dict())
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    # The unit is called once a pass, what is in it once more in the backward pass.
    for family in ("vlm", "head"):
        assert runs.count(f"{family} inside") == runs.count(family) + 1, (family, runs)


@pytest.mark.filterwarnings("ignore")
def test_a_prefix_is_read_again_and_again_as_it_was():
    system, batch = build("tiny/stage2", "trainer.activation_checkpointing=[vlm]")
    inputs = system.vlm.prepare(batch.prompts, batch.images)
    prefix = system.vlm.prefill(inputs)
    length = prefix.cache.get_seq_length()
    queries = torch.randn(2, 2, 32, requires_grad=True)
    first = system.vlm.read(prefix, queries)
    first.square().sum().backward()
    kept = queries.grad.clone()
    queries.grad = None
    system.vlm.read(prefix, queries).square().sum().backward()
    assert torch.equal(queries.grad, kept) and kept.abs().sum() > 0
    assert prefix.cache.get_seq_length() == length
    assert system.vlm.answer(inputs, 3) == build("tiny/stage2")[0].vlm.answer(inputs, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_compute_the_same(monkeypatch):
    compiled: list[str] = []

    def backend(graph, inputs):
        compiled.append("graph")
        return graph.forward

    monkeypatch.setattr(units, "BACKEND", backend)
    plain, batch = build("tiny/stage3")
    expected = gradients(plain, batch)
    system, _ = build("tiny/stage3", "trainer.compile=[head]", RECOMPUTE)
    found = gradients(system, batch)
    assert compiled and list(system.state_dict()) == list(plain.state_dict())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.slow  # a minute of g++, and more on a busy machine
@pytest.mark.filterwarnings("ignore")
def test_losses_of_compiled_blocks_are_those_of_the_plain_ones(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # no processes of its own
    small = "connector={name: enc_proj, num_layers: 1}"
    losses = []
    for overrides in ([small], [small, "trainer.compile=[connector]"]):
        system, batch = build("tiny/stage1", *overrides)
        optimizer = system.configure_optimizers()["optimizer"]
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = system.training_step(batch, 0)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    from torch._dynamo.utils import counters

    worst = max(abs(a - b) for a, b in zip(*losses, strict=True))
    print(f"compiled: losses of 3 steps differ by {worst:.1e}")
    assert counters["inductor"] and worst < 1e-5 and losses[0][2] < losses[0][0]
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.activation_checkpointing=[haed]"], "did you mean 'head'"),
        (["trainer.activation_checkpointing=[autoencoder]"], "a frozen autoencoder has none"),
        ([RECOMPUTE, "vlm.gradient_checkpointing=true"], "vlm.gradient_checkpointing is on too"),
        (["trainer.compile=[connector]"], "Mlp is one|MLP is one"),
        (["trainer.cpu_offload=true"], "strategy=fsdp"),
        (["trainer.cpu_offload=true", "trainer.strategy=fsdp"], "accelerator=cpu"),
        (["trainer.precision=16-mixed", "trainer.strategy=fsdp"], "precision=bf16-mixed"),
        (["trainer.frozen_dtype={head: bfloat16}"], "trainable.head to frozen or LoRA"),
        (["trainer.frozen_dtype={vlm: bfloat16}"], "set vlm.dtype=bfloat16"),
        (["trainer.frozen_dtype={autoencoder: half}"], "for example bfloat16"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_built(overrides, said):
    from qk_lightning.config.chain import plan_chain
    from qk_lightning.sweeps.preflight import check

    with pytest.raises(ConfigError, match=said):
        check(plan_chain("tiny/stage1", overrides))


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_head_in_bfloat16_trains_its_lora_in_float32():
    half = "trainer.frozen_dtype={head: bfloat16, autoencoder: bfloat16}"
    system, batch = build("tiny/stage3", half)
    dtypes = {p.requires_grad: p.dtype for p in system.head.parameters()}
    assert dtypes == {False: torch.bfloat16, True: torch.float32}
    found = gradients(system, batch)
    expected = gradients(*build("tiny/stage3"))
    assert found.keys() == expected.keys()
    worst = max((found[n] - g).abs().max() / g.abs().max() for n, g in expected.items())
    assert 0 < worst < 0.2  # rounded to 8 bits, and not float32
    here, there = (compose("tiny/stage3", of) for of in ([half], []))
    assert here.identity(None) != there.identity(None)
