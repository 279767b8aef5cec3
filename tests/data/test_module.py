from __future__ import annotations

import json
import multiprocessing
import os
import socket

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_world import TinyWorld

from qk_lightning.config.errors import ConfigError
from qk_lightning.data.module import DataModule

TASKS = {"text_to_image": 1.0, "editing": 1.0}


def _data(**changes):
    given = {"seed": 3, "global_batch_size": 24, "groups_per_step": 3, "micro_batch_size": 4}
    return DataModule(TinyWorld(), TASKS, **{**given, **changes})


class Recorder(LightningModule):
    """Learns one number and notes which samples each step saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_index):
        del batch_index
        self.seen += [(self.global_step, batch.task, name) for name in batch.ids]
        return (self.weight - batch.target.mean()) ** 2

    def validation_step(self, batch, batch_index):
        del batch_index
        self.validated.append((batch.task, batch.roles, batch.index.tolist()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(folder, data, steps, checkpoint=None, ranks=1, **options):
    model = Recorder()
    trainer = Trainer(
        **{
            "max_steps": steps,
            "max_epochs": -1,
            "accelerator": "cpu",
            "use_distributed_sampler": False,
            "accumulate_grad_batches": data.order(0, ranks).micro_batches_per_step,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            "limit_val_batches": 0,
            **options,
        }
    )
    trainer.fit(model, data, ckpt_path=checkpoint)
    return model, trainer


@pytest.mark.filterwarnings("ignore")
def test_resume_sees_what_the_straight_run_saw(tmp_path):
    straight, _ = _fit(tmp_path, _data(), 5)
    assert len(straight.seen) == 5 * 24
    first, trainer = _fit(tmp_path, _data(), 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    # Other micro-batches after the resume; the steps' samples stay.
    data = _data(micro_batch_size=8)
    second, trainer = _fit(tmp_path, data, 5, tmp_path / "half.ckpt")
    assert first.seen + second.seen == straight.seen
    torch.testing.assert_close(second.weight, straight.weight)


@pytest.mark.filterwarnings("ignore")
def test_start_step_without_a_checkpoint(tmp_path):
    straight, _ = _fit(tmp_path, _data(), 4)
    data = _data()
    data.start_step = 3
    late, _ = _fit(tmp_path, data, 1)
    assert [seen[1:] for seen in late.seen] == [seen[1:] for seen in straight.seen[3 * 24 :]]


@pytest.mark.filterwarnings("ignore")
def test_a_new_epoch_of_lightning_goes_on_where_the_last_ended(tmp_path):
    straight, _ = _fit(tmp_path, _data(), 4)
    pieces, _ = _fit(tmp_path, _data(), 4, limit_train_batches=12)
    assert pieces.seen == straight.seen


@pytest.mark.filterwarnings("ignore")
def test_workers_do_not_change_the_order():
    torch.set_num_threads(1)
    alone, helped = (iter(_data(num_workers=n).train_dataloader()) for n in (0, 2))
    for _ in range(20):
        one, two = next(alone), next(helped)
        assert one.ids == two.ids and torch.equal(one.target, two.target)
        assert torch.equal(one.index, two.index)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_that_accumulates_otherwise_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected 6, the micro-batches of a step"):
        _fit(tmp_path, _data(), 1, accumulate_grad_batches=2)


def test_mistakes_are_found_before_any_trainer():
    with pytest.raises(ConfigError, match="trainer.micro_batch_size"):
        _data(micro_batch_size=3)


def test_validation_batches_are_fixed_and_of_one_layout():
    batches = _data().val_batches("editing", 6, 3)
    assert [batch.index.tolist() for batch in batches] == [[0, 1], [2, 3, 4], [5]]
    assert [len(batch.roles) for batch in batches] == [1, 2, 2]
    again = _data(seed=9, global_batch_size=48).val_batches("editing", 6, 3)
    assert [batch.ids for batch in again] == [batch.ids for batch in batches]
    assert batches[0].ids == ["editing-val-0", "editing-val-1"]


def test_validation_of_a_task_the_world_lacks():
    with pytest.raises(ConfigError, match="choose among: text_to_image, editing"):
        _data().val_batches("customised", 2, 2)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_validates_every_trained_task(tmp_path):
    data = _data(num_val_samples=3)
    options = {"limit_val_batches": 1.0, "val_check_interval": 6, "check_val_every_n_epoch": None}
    model, _ = _fit(tmp_path, data, 2, num_sanity_val_steps=0, **options)
    once = [
        ("text_to_image", (), [0, 1, 2]),
        ("editing", ("source",), [0]),
        ("editing", ("source", "reference"), [2, 3]),
    ]
    assert model.validated == once * 2


def _rank(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    model, _ = _fit(folder, _data(), 3, None, 2, strategy="ddp", devices=2)
    result = {"seen": model.seen, "weight": float(model.weight)}
    (folder / f"{rank}.json").write_text(json.dumps(result))


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_train_on_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    straight, _ = _fit(tmp_path, _data(), 3)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    union = [tuple(seen) for result in results for seen in result["seen"]]
    assert sorted(union) == sorted(straight.seen)
    assert {len(result["seen"]) for result in results} == {3 * 12}
    for result in results:
        assert result["weight"] == pytest.approx(float(straight.weight), abs=1e-6)
