"""`resume:` and `trainer.keep_best`: what a run goes on from, and what of it stays."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from test_run_stage import train, weights_of

from qk_lightning.assembly.weights import Entry
from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.resume import RESTARTS
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.preflight import check
from qk_lightning.sweeps.stage import run_stage
from qk_lightning.training.checkpoint_record import (
    DamagedCheckpointError,
    other_bases,
    read_whole,
    revisions_of,
)
from qk_lightning.training.starting import ASIDE

pytestmark = [pytest.mark.shared_root, pytest.mark.usefixtures("shared_presets")]

QUICK = ["validation.num_samples=2", "validation.num_images=0"]
BEST = [*QUICK, "max_steps=6", "validation.every=2", "trainer.keep_best=val/loss"]


@pytest.fixture(scope="module")
def trained(shared_presets: Path) -> RunFolder:
    """A run whose checkpoints of the steps 2, 4 and 6, and the best one, were all kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qk_lightning.sweeps.stage.keep_newest", lambda *_: None)
        patch.setattr("qk_lightning.training.checkpoints.KEPT", 3)
        return train(plan_chain("tiny/stage1", ["name=trained", *BEST]))[0]


@pytest.fixture
def begun(trained: RunFolder) -> RunFolder:
    """The same, as a stop after step 4 leaves it: the only run of its identity."""
    run = RunFolder(trained.path.with_name(f"begun-{trained.identity}"))
    shutil.copytree(trained.path, run.path)
    aside = trained.path.parents[1] / "apart"
    trained.path.rename(aside)
    for name in ("weights", "samples"):
        shutil.rmtree(run.path / name)
    (run.checkpoints / "step=6.ckpt").unlink()
    run.write_status(state="stopped", step=4)
    run.keep_metrics_until(4)
    yield run
    shutil.rmtree(run.path)
    aside.rename(trained.path)


def fit(*words: str) -> int:
    """Run `qk fit` on the preset that the run was planned with."""
    return main(["fit", "tiny/stage1", *BEST, *words])


def names(folder: Path) -> list[str]:
    """List the checkpoints of a folder."""
    return sorted(file.name for file in folder.glob("*.ckpt"))


def test_auto_goes_on_latest_too_and_false_begins_anew(
    begun: RunFolder, trained: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--plan") == 0
    assert "goes on from step 4" in capsys.readouterr().out
    assert fit("resume=latest", "--plan") == 0
    assert "goes on from step 4" in capsys.readouterr().out
    before = {file.name: file.read_bytes() for file in begun.checkpoints.glob("step=*.ckpt")}
    rows = begun.metrics()
    assert fit("resume=false", "--plan") == 0
    assert "runs (6 steps); what is there is set aside" in capsys.readouterr().out
    assert fit("resume=false") == 0
    aside = begun.path / ASIDE / "1"
    assert {f.name: f.read_bytes() for f in aside.glob("checkpoints/step=*")} == before
    assert RunFolder(aside).metrics() == rows
    assert [row["step"] for row in begun.metrics() if row["metric"] == "train/loss"] == [
        *range(1, 7)
    ]
    expected = weights_of(RunFolder(trained.path.parents[1] / "apart"))
    assert all(torch.equal(t, expected[name]) for name, t in weights_of(begun).items())
    capsys.readouterr()
    assert fit("resume=false") == 0  # what is done is not done again
    assert "done" in capsys.readouterr().out
    assert not (begun.path / ASIDE / "2").exists()


@pytest.mark.slow
def test_an_older_step_of_its_own(begun: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    file = begun.checkpoints / "step=2.ckpt"
    assert fit(f"resume={file}", "--plan") == 0
    assert f"{begun.name}" in (said := capsys.readouterr().out)  # no other run
    assert "goes on from step 2" in said
    assert fit(f"resume={file}") == 0
    assert begun.is_done
    assert names(begun.path / ASIDE / "1" / "checkpoints")[-1] == "step=4.ckpt"
    steps = [row["step"] for row in begun.metrics() if row["metric"] == "train/loss"]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_restarted_job_goes_on_whatever_resume_says(
    begun: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RESTARTS[0], "1")
    assert fit("resume=false", "--plan") == 0
    assert "goes on from step 4" in capsys.readouterr().out
    assert fit("resume=false") == 0
    assert not (begun.path / ASIDE).exists()


def test_another_runs_checkpoint_is_part_of_the_identity(trained: RunFolder) -> None:
    file = trained.checkpoints / "step=4.ckpt"
    own = plan_chain("tiny/stage1", [*BEST, f"resume={file}"])[0]
    assert own.identity == trained.identity
    for word in ("auto", "false"):
        assert plan_chain("tiny/stage1", [*BEST, f"resume={word}"])[0].identity == own.identity
    other = ["optimizer.lr=1e-4", *BEST]
    plain = plan_chain("tiny/stage1", other)[0]
    first, second = (
        plan_chain("tiny/stage1", [*other, f"resume={trained.checkpoints / name}"])[0]
        for name in ("step=4.ckpt", "step=2.ckpt")
    )
    assert len({plain.identity, first.identity, second.identity, own.identity}) == 4


def test_what_cannot_be_resumed_is_found_before_anything_is_loaded(
    trained: RunFolder, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "text.ckpt").write_text("no checkpoint")
    for value, said in {
        "lastest": "did you mean 'latest'",
        "runs/nowhere/step=2.ckpt": "there is no such file",
        str(trained.path): "best-step=",
        str(root / "text.ckpt"): "this one is damaged, or none of ours",
        "true": "resume",
    }.items():
        assert fit(f"resume={value}", "--plan") == 2, value
        assert said in capsys.readouterr().err, value
    words = ["fit", "tiny/stage1", "seed=7", "resume=latest", "--plan"]
    assert main(words) == 2
    assert "and there is none" in capsys.readouterr().err
    file = trained.checkpoints / "step=4.ckpt"
    for override, said in {
        "trainable.vlm.lora.rank=4": "(2, 32), and (4, 32) here",
        "trainable.queries=frozen": "not trained here",
    }.items():
        with pytest.raises(ConfigError) as caught:
            check(plan_chain("tiny/stage1", [override, f"resume={file}"]))
        assert said in str(caught.value)


def test_a_checkpoint_that_is_damaged_anywhere_is_seen(trained: RunFolder, tmp_path: Path) -> None:
    whole = (trained.checkpoints / "step=4.ckpt").read_bytes()
    file = tmp_path / "step=4.ckpt"
    file.write_bytes(whole)
    expected = read_whole(file)["state_dict"]
    draw = random.Random(0)
    harmless = 0
    for number in range(60):
        if number < 20:
            bad = whole[: draw.randrange(len(whole))]
        else:
            place = draw.randrange(len(whole))
            bad = bytearray(whole)
            bad[place] ^= 1 << draw.randrange(8)
        file.unlink()  # a mapped file keeps its bytes
        file.write_bytes(bad)
        try:
            found = read_whole(file)["state_dict"]
        except DamagedCheckpointError:
            continue
        harmless += 1  # padding between tensors
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert harmless < 30
    file.unlink()
    file.write_bytes(b"")
    with pytest.raises(DamagedCheckpointError):
        read_whole(file)
    other = tmp_path / "step=5.ckpt"
    other.write_bytes(whole)
    with pytest.raises(DamagedCheckpointError, match="holds step 4, and its name says 5"):
        read_whole(other)


def test_a_flipped_bit_that_torch_does_not_see(begun: RunFolder) -> None:
    file = begun.checkpoints / "step=4.ckpt"
    with zipfile.ZipFile(file) as archive:
        tensors = [info for info in archive.infolist() if "/data/" in info.filename]
    largest = max(tensors, key=lambda info: info.file_size)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 4
    file.unlink()
    file.write_bytes(content)
    torch.load(file, weights_only=True)  # content, and nothing said
    assert fit() == 0  # from step 2
    assert (begun.checkpoints / "step=4.damaged").is_file()
    assert begun.is_done


def test_a_resume_over_another_base_is_refused(
    begun: RunFolder, tiny_vlm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tiny_vlm / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        os.utime(weights)
        with pytest.raises(ConfigError) as caught:
            run_stage(begun.path)
    finally:
        weights.write_bytes(kept)
    said = str(caught.value)
    (then,) = (
        entry["sha256"]
        for entry in read_whole(begun.checkpoints / "step=4.ckpt")["qk_lightning"]["entries"]
        if entry["action"] == "base"
    )
    assert f"vlm was base {then} and is base " in said
    assert "resume=false" in said
    assert names(begun.checkpoints)[-1] == "step=4.ckpt"  # it is whole, and stays
    assert begun.status["state"] == "failed"


def test_a_hubs_revision_is_recorded_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.file_download as cache

    folder = tmp_path / "models--lab--vlm"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    (folder / "snapshots" / "abc123").mkdir(parents=True)
    (folder / "snapshots" / "abc123" / "config.json").write_text("{}")
    right = cache.try_to_load_from_cache
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda *a: right(*a, cache_dir=tmp_path)
    )
    entries = [Entry("vlm", "base", "lab/vlm"), Entry("head", "base", "lab/unknown")]
    assert revisions_of(entries) == {"vlm": "abc123"}
    record = {"entries": [vars(entry) for entry in entries], "revisions": {"vlm": "older"}}
    (differ,) = other_bases(record, entries, {})
    assert differ == "vlm was hub lab/vlm at older and is hub lab/vlm at abc123"
    assert not other_bases({}, entries, {})  # written by older code
    assert not other_bases(record, entries, {"vlm": "full"})  # all of it is in the checkpoint


def test_the_best_step_is_kept_beside_the_last_and_can_be_drawn_and_exported(
    trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {r["step"]: r["value"] for r in trained.metrics() if r["metric"] == "val/loss"}
    assert set(losses) == {2, 4, 6}
    (file,) = trained.checkpoints.glob("best-step=*.ckpt")
    step = min(losses, key=losses.__getitem__)
    assert file.name == f"best-step={step}.ckpt"
    score = torch.load(file, weights_only=True)["best"]["score"]
    assert score == pytest.approx(losses[step], rel=1e-6)
    out = tmp_path / "out"
    words = ["generate", trained.name, "--prompt", "a person", "--output"]
    assert main([*words, str(out / "last")]) == 0
    # The last checkpoint draws what the finished run does: its average is what was kept.
    assert main([*words, str(out / "same"), "--checkpoint", "last"]) == 0
    assert main([*words, str(out / "early"), "--checkpoint", "2"]) == 0
    last, same, early = (
        next((out / name).glob("*.png")).read_bytes() for name in ("last", "same", "early")
    )
    assert last == same
    assert early != last
    assert not list(trained.path.glob(".at_*"))
    assert main(["export", trained.name, str(out / "best"), "--checkpoint", "best"]) == 0
    assert main(["generate", str(out / "best"), "--prompt", "a person", "--output", str(out)]) == 0
    capsys.readouterr()
    assert main([*words, str(out), "--checkpoint", "3"]) == 2
    assert (
        f"name one of: {file.name}, step=6.ckpt, step=4.ckpt, step=2.ckpt"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_checkpoint_is_scored_beside_the_finished_run(trained: RunFolder) -> None:
    words = ["evaluate", trained.name, "avatars", "--limit", "1", "--checkpoint", "2"]
    assert main(words) == 0
    assert (trained.path / "evaluations" / "avatars_limit1_step2" / "summary.json").is_file()


def test_a_best_that_cannot_be_known_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["trainer.keep_best=val/loss"], "validation.every=0 measures nothing"),
        (["trainer.keep_best=loss", "validation.every=2"], "a metric that validation logs"),
        (
            ["trainer.keep_best=val/loss/editing", "validation.every=2"],
            "with one of: text_to_image",
        ),
    ):
        assert main(["fit", "tiny/stage1", *words, "--plan"]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"choose among: val/loss, val/loss/"):
        words = [*QUICK, "name=psnr", "validation.every=1", "trainer.keep_best=val/psnr"]
        train(plan_chain("tiny/stage1", [*words, "max_steps=1"]))


@pytest.mark.slow
def test_the_best_goes_with_the_steps_that_are_trained_again(begun: RunFolder) -> None:
    best = begun.checkpoints / "best-step=2.ckpt"
    for file in begun.checkpoints.glob("best-*"):
        file.unlink()
    content = torch.load(begun.checkpoints / "step=2.ckpt", weights_only=True)
    torch.save({**content, "best": {"metric": "val/loss", "score": -1.0}}, best)
    shutil.copy(best, begun.checkpoints / "best-step=6.ckpt")  # a kill came before step=6.ckpt
    assert fit() == 0
    assert names(begun.checkpoints) == ["best-step=2.ckpt", "step=6.ckpt"]  # -1 is never beaten


@pytest.mark.slow
def test_a_run_of_older_code_goes_on(begun: RunFolder) -> None:
    file = begun.checkpoints / "step=4.ckpt"
    content = torch.load(file, weights_only=True)
    del content["qk_lightning"]
    for name in ("SpikeLog", "IdleParameters"):
        del content["callbacks"][name]
    torch.save(content, file)
    assert fit() == 0
    assert [run.is_done for run in list_runs() if run.name == begun.name] == [True]
