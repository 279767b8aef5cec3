"""`qk doctor`: it finds what is broken, says how to get it, and never breaks itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from qk_lightning.cli import doctor as doctor_module
from qk_lightning.cli.main import main
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.doctor.imports import check_imports
from qk_lightning.doctor.packages import check_packages
from qk_lightning.doctor.project import check_project, check_weights, num_parameters
from qk_lightning.doctor.runs import check_runs
from qk_lightning.doctor.store import check_address
from qk_lightning.tracking.mlflow_missed import note_missed


def by_name(findings):
    return {finding.name: finding for finding in findings}


@pytest.mark.slow
def test_quick_checks_need_no_library_of_weight(root: Path) -> None:
    code = (
        "import sys; from qk_lightning.cli.main import main; code = main(['doctor', '--quick']); "
    )
    code += "sys.exit(code or any(m in sys.modules for m in ('torch', 'lightning', 'mlflow')))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for text in ("torch", "builtin:laptop_vlm", "nothing tracked yet", "all is usable"):
        assert text in ended.stdout
    assert not (root / "runs").exists()


def test_a_broken_preset_is_named_and_ends_with_1(root, capsys, monkeypatch) -> None:
    (root / "experiments/mine").mkdir(parents=True)
    text = "defaults: [laptop/stage1]\ntrainer: {max_stepps: 3}\n"
    (root / "experiments/mine/try.yaml").write_text(text)
    quick = [check for check in doctor_module.QUICK if check[0] == "presets"]
    monkeypatch.setattr(doctor_module, "QUICK", quick)
    monkeypatch.setattr(
        "qk_lightning.config.paths.list_presets", lambda: ["laptop/base", "mine/try"]
    )
    assert main(["doctor", "--quick"]) == 1
    said = capsys.readouterr().out
    assert "did you mean 'max_steps'?" in said
    assert "0 stages and 0 sweeps compose; 1 more files" in said
    assert "missing or broken: mine/try" in said


class Distribution:
    metadata = type("M", (dict,), {"get_all": lambda self, key: ["dev"]})(
        {"Requires-Python": ">=4"}
    )
    requires = ["omegaconf>=99", "no-such-thing>=1", "rich", 'no-such-tool; extra == "dev"']


def test_requirements_are_held_against_what_is_installed(monkeypatch) -> None:
    real = metadata.distribution
    with monkeypatch.context() as patch:
        chosen = {"qk_lightning": Distribution}
        patch.setattr(metadata, "distribution", lambda name: chosen.get(name) or real(name))
        found = by_name(check_packages())
    states = {name: finding.state for name, finding in found.items()}
    assert states["python"] == states["omegaconf"] == states["no-such-thing"] == "missing"
    assert states["rich"] == states["qk_lightning"] == "ok"
    assert found["no-such-thing"].fix == 'pip install "no-such-thing>=1"'
    assert (states["extra [dev]"], found["extra [dev]"].fix) == ("note", "pip install no-such-tool")
    uninstalled = by_name(check_packages("no_such_distribution"))
    assert uninstalled["qk_lightning"].state == "missing"


def test_a_library_that_cannot_be_imported_or_crashes_is_a_finding(root, monkeypatch) -> None:
    (root / "broken_torch.py").write_text("raise ImportError('libtorch.so: no such file')\n")
    (root / "crashing.py").write_text("import os; print('noise'); os.abort()\n")
    (root / "healthy.py").write_text("print('noise')\n")
    monkeypatch.syspath_prepend(str(root))
    names = ["broken_torch", "healthy", "crashing", "no_such_module", "json"]
    found = by_name(check_imports(names))
    assert [finding.state for finding in found.values()] == [
        "missing", "ok", "missing", "missing", "ok"
    ]  # fmt: skip
    assert "libtorch.so" in found["import broken_torch"].text
    assert "SIGABRT" in found["import crashing"].text
    assert found["import no_such_module"].fix == "pip install no_such_module"


def test_torch_tells_its_devices() -> None:
    found = by_name(check_imports(["torch"]))
    assert found["import torch"].state == "ok"
    assert int(found["torch threads"].text) >= 1
    assert "cuda" in found


def test_damaged_weights_are_named(tmp_path, monkeypatch) -> None:
    assert all(finding.state == "ok" for finding in check_weights())
    folder = tmp_path / "weights/laptop_codec"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    monkeypatch.setattr("qk_lightning.doctor.project.package_root", lambda: tmp_path)
    found = by_name(check_weights())
    assert "git-lfs" in found["builtin:laptop_codec"].text
    assert found["builtin:laptop_vlm"].state == "missing"


def test_a_cut_safetensors_file_is_refused(tmp_path) -> None:
    header = {"a": {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]}}
    text = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 12)
    assert num_parameters(file) == 6
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="bytes where its header says"):
        num_parameters(file)


def test_a_root_that_is_no_folder_is_said(root, monkeypatch) -> None:
    monkeypatch.setenv("QK_ROOT", str(root / "gone"))
    (finding,) = check_project()
    assert (finding.state, "mkdir" in finding.fix) == ("missing", True)
    (root / "runs").write_text("a file, not a folder")
    monkeypatch.setenv("QK_ROOT", str(root))
    assert by_name(check_project())["runs/"].state == "missing"


def test_stale_things_in_runs_are_found(root) -> None:
    run = RunFolder(root / "runs/stage1-0123456789")
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text("name: stage1\n")
    run.write_status(state="running", step=7, max_steps=20)
    dead = {"host": "", "pid": "0", "token": "x"}
    (run.path / ".lock").write_text(json.dumps(dead))
    (root / "runs/.gone-0123.abcd").mkdir()
    (run.path / ".weights.ab.part").write_text("half")
    entries = [{"part": "vlm", "file": "stage0-aaaaaaaaaa/weights/vlm.safetensors"}]
    run.weights_json.write_text(json.dumps({"entries": entries}))
    other = RunFolder(root / "runs/stage2-1123456789")
    other.path.mkdir()
    (other.path / "config.yaml").write_text("name: stage2\n")
    (other.path / "status.json").write_text('{"state": "do')
    note_missed(other, "no connection")
    old = time.time() - 1000
    os.utime(run.path / ".lock", (old, old))
    found = {(item.name, item.text): item for item in check_runs()}
    text = " | ".join(f"{name}: {text}" for name, text in found)
    assert "stage1-0123456789: interrupted at step 7 of 20" in text
    assert "needs stage0-aaaaaaaaaa, which is gone" in text
    assert "locks: 1 of dead processes: stage1-0123456789" in text
    assert "half-written: 2," in text
    assert "stage2-1123456789: its status.json is damaged" in text
    assert "MLflow: lacks some of 1 run " in f"{text} "
    assert (run.path / ".lock").exists()  # looked at, not touched


def test_a_lost_or_damaged_store_is_said(root, monkeypatch) -> None:
    assert "nothing tracked yet" in by_name(check_address())["store"].text
    file = root / "runs/mlflow/mlflow.db"
    file.parent.mkdir(parents=True)
    file.write_text("this is no database")
    assert by_name(check_address())["store"].state == "missing"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    assert by_name(check_address())["address"].state == "missing"
