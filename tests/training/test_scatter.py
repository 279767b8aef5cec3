"""Parts built without storage and filled in shards are those of one process, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from two_ranks import on_ranks

from qk_lightning.assembly import shard
from qk_lightning.assembly.build import build_part, seeded
from qk_lightning.assembly.lora import add_lora
from qk_lightning.assembly.replay import bare_part, has_holes, replay_part, tensors_of
from qk_lightning.assembly.shard import is_sharded, whole
from qk_lightning.assembly.weights import Entry, first_entry
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.identity import fingerprint
from qk_lightning.systems.base import build_system
from qk_lightning.systems.query_kontext import QueryKontext
from qk_lightning.training.rank_check import RankError, check_parts
from qk_lightning.training.ranks import join

pytestmark = [
    pytest.mark.shared_root,
    pytest.mark.usefixtures("shared_presets"),
    pytest.mark.filterwarnings("ignore"),
]
LORA = "trainable={vlm: {lora: {rank: 2}}, head: {lora: {rank: 2}}, queries: full, connector: full}"


def lora_of(part, family, file: Path) -> None:
    """Write an update as a stage writes it."""
    options = compose("tiny/stage1").cfg.trainable.vlm.lora
    add_lora(family, part, options, 0)
    with seeded(3, family):
        state = {
            name: torch.randn(p.shape) * 0.1
            for name, p in part.named_parameters()
            if p.requires_grad
        }
    save_file(state, file, metadata={"lora": json.dumps({"rank": 2, "alpha": 3.0})})


@pytest.fixture(scope="module")
def pieces(module_root, shared_presets, tiny_vlm):
    """A VLM and a head in several files each, an update for both, and queries of a run."""
    cfg = compose("tiny/stage1").cfg
    folder = module_root / "runs" / "before" / "weights"
    folder.mkdir(parents=True)
    vlm = build_part("vlm", cfg.vlm, 0, {})
    vlm.load_base()
    vlm.model.save_pretrained(module_root / "vlm", max_shard_size="50KB")
    for file in tiny_vlm.iterdir():
        if not file.name.startswith("model"):
            (module_root / "vlm" / file.name).write_bytes(file.read_bytes())
    head = build_part("head", cfg.head, 7, {"latent_channels": 4})
    head.model.save_pretrained(module_root / "head", max_shard_size="50KB")
    for name in ("vlm", "head"):
        assert len(list((module_root / name).glob("*.safetensors"))) > 1
    build_part("queries", cfg.queries, 5, {"hidden_size": 32, "num_layers": 1}).export(
        folder / "queries"
    )
    lora_of(vlm, "vlm", folder / "vlm.lora.safetensors")
    lora_of(head, "head", folder / "head.lora.safetensors")
    return module_root


def planned(root: Path, *overrides: str):
    """Return a configuration over these files, and its entries: all actions, and a sum of two."""
    given = [LORA, f"vlm.path={root / 'vlm'}", f"head={{name: flux, path: {root / 'head'}}}"]
    cfg = compose("tiny/stage1", [*given, *overrides]).cfg
    entries = [first_entry(family, cfg[family], cfg.seed) for family in QueryKontext.families]
    for family in ("vlm", "head", "head"):
        name = f"before/weights/{family}.lora.safetensors"
        entries.append(Entry(family, "merge_lora", name, fingerprint(root / "runs" / name)))
    entries = [entry for entry in entries if entry.part != "queries"]
    entries.append(Entry("queries", "load", "before/weights/queries"))
    return cfg, entries


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().copy()


def built_in_shards(root: str, overrides: tuple[str, ...]):
    """Build a system on this rank in shards; return all of its tensors, gathered."""
    shard.REPLICATED = 0
    cfg, entries = planned(Path(root), *overrides)
    ranks = join(cfg.trainer)
    system = build_system(cfg, entries, Path(root) / "runs")
    system.waits_for_mesh = True
    system.configure_model()
    held = {family: has_holes(part) for family, part in system.parts.items()}
    check_parts(system.parts, ranks)
    system._device_mesh = init_device_mesh(
        "cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel")
    )
    system.configure_model()
    system.configure_model()
    learns = {name: p.requires_grad for name, p in system.named_parameters()}
    cut = [name for name, p in system.named_parameters() if is_sharded(p)]
    tied = system.vlm.model.get_output_embeddings().weight
    assert tied is system.vlm.model.get_input_embeddings().weight
    return held, learns, cut, {n: numbers(whole(t)) for n, t in tensors_of(system).items()}


@pytest.mark.distributed
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), id="float32"),
        pytest.param(
            ("vlm.dtype=bfloat16", "trainer.frozen_dtype={head: bfloat16}"),
            id="bfloat16",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_filled_shards_are_what_one_process_builds(pieces, overrides):
    fsdp = ("trainer.strategy=fsdp", "trainer.devices=2", *overrides)
    cfg, entries = planned(pieces, *overrides)
    eager = build_system(cfg, entries, pieces / "runs")
    eager.configure_model()
    expected = {name: numbers(tensor) for name, tensor in tensors_of(eager).items()}
    for held, learns, cut, found in on_ranks(built_in_shards, str(pieces), fsdp):
        assert [family for family, empty in held.items() if empty] == [
            "vlm",
            "head",
            "queries",
            "connector",
        ]
        assert learns == {name: p.requires_grad for name, p in eager.named_parameters()}
        assert cut == list(learns)
        assert found.keys() == expected.keys()
        for name, bits in expected.items():
            assert np.array_equal(found[name], bits), name


def test_the_first_file_is_read_in_place_of_random_numbers(pieces):
    cfg, entries = planned(pieces)
    for family, wired in (("vlm", {}), ("head", {"latent_channels": 4})):
        lean, plain = (
            replay_part(cfg, entries, family, wired, pieces / "runs", lean=lean)
            for lean in (True, False)
        )
        for name, tensor in tensors_of(plain).items():
            assert torch.equal(tensors_of(lean)[name], tensor), name
    with torch.device("meta"):
        assert has_holes(bare_part(cfg, entries, "head", {"latent_channels": 4}))


def broken_on_the_first(root: str):
    shard.REPLICATED = 0
    cfg, entries = planned(Path(root), "trainer.strategy=fsdp", "trainer.devices=2")
    ranks = join(cfg.trainer)
    system = build_system(cfg, entries, Path(root) / "runs")
    system.waits_for_mesh = True
    system.configure_model()
    system._device_mesh = init_device_mesh(
        "cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel")
    )
    if ranks.is_first:  # as a disk does that fails between the check and the reading
        system.entries = [
            Entry("vlm", "merge_lora", "gone") if e.action == "merge_lora" else e for e in entries
        ]
    try:
        system.configure_model()
    except (ConfigError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.distributed
def test_a_file_that_the_first_rank_cannot_read_stops_all_of_them(pieces):
    first, second = on_ranks(broken_on_the_first, str(pieces))
    assert first.startswith("ConfigError") and "gone" in first
    assert (
        second.startswith("RuntimeError: the first rank could not build a part")
        and "gone" in second
    )


def grown(root: str, head: str):
    """Build a large head in shards; return by how much this rank's peak and its end rose."""
    cfg, entries = planned(Path(root), "trainer.strategy=fsdp", "trainer.devices=2", head)
    ranks = join(cfg.trainer)
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    shard.REPLICATED = 1_000_000
    system = build_system(cfg, entries_without_lora(entries), Path(root) / "runs")
    system.waits_for_mesh, before = True, resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    system.configure_model()
    system._device_mesh = mesh
    system.configure_model()
    sizes = [p.numel() * p.element_size() for p in system.head.parameters()]
    return (
        ranks.rank,
        resident("VmHWM") - before,
        resident("VmRSS") - before,
        sum(sizes),
        max(sizes),
    )


def entries_without_lora(entries):
    """Leave out updates of the small head, which do not fit the large one."""
    return [e for e in entries if (e.part, e.action) != ("head", "merge_lora")]


def resident(kind: str) -> int:
    """Return bytes of this process in memory, now (VmRSS) or at most (VmHWM)."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(kind)]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.distributed
def test_no_other_rank_holds_more_than_its_shards_and_one_tensor(pieces):
    sizes = {"num_layers": 1, "num_single_layers": 6, "num_attention_heads": 24}
    options = {"name": "flux", **sizes, "condition_size": 32}
    head = build_part("head", OmegaConf.create(options), 1, {"latent_channels": 4})
    head.model.save_pretrained(pieces / "large", max_shard_size="40MB")
    del head
    said = ", ".join(
        f"{key}: {value}" for key, value in {**options, "path": pieces / "large"}.items()
    )
    given = f"head={{{said}}}"
    for rank, peak, end, size, largest in on_ranks(grown, str(pieces), given):
        peak, end, size, largest = (value / 2**20 for value in (peak, end, size, largest))
        print(
            f"rank {rank}: whole {size:.0f} MiB, largest tensor {largest:.0f}, "
            f"rise at the peak {peak:.0f}, at the end {end:.0f}"
        )
        assert size > 200 and end > 0.4 * size
        if rank:
            assert peak < size / 2 + largest + 32  # of the rest of the system, and code


def other_part_by_rank():
    ranks = join(compose("tiny/stage1", ["trainer.strategy=fsdp", "trainer.devices=2"]).cfg.trainer)
    with torch.device("meta"):
        part = build_part(
            "connector",
            compose("tiny/stage1").cfg.connector,
            0,
            {"input_size": 8, "output_size": 8 + ranks.rank},
        )
    try:
        check_parts({"connector": part}, ranks)
    except RankError as error:
        return str(error)
    return ""


@pytest.mark.distributed
def test_ranks_that_would_build_other_shapes_stop():
    for said in on_ranks(other_part_by_rank):
        assert "connector." in said and "differs between ranks" in said
