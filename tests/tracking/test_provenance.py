"""Provenance: what was used, and whether it is still the same."""

from __future__ import annotations

import json
import subprocess
import sys

from omegaconf import OmegaConf

from qk_lightning.config.paths import package_root
from qk_lightning.tracking.provenance import collect, source_changes, source_digest


def test_collect_needs_no_torch_and_is_plain():
    code = (
        "import json, sys; from qk_lightning.tracking.provenance import collect; "
        "print(json.dumps(collect())); assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout)
    assert found["packages"]["torch"]
    assert found["gpus"] == []
    assert found["cpu"]["count"] >= 1
    assert collect()["python"] == found["python"]


def test_digest_holds_what_can_change_a_result():
    files = source_digest()
    assert "qk_lightning/config/run_folder.py" in files
    assert not [name for name in files if "/tracking/" in name or "/cli/" in name]
    assert "qk_lightning/__init__.py" not in files
    assert not [name for name in files if "/sweeps/" in name and "stage" not in name]
    assert all((package_root().parent / name).is_file() for name in files)


def test_changes_are_named(root, make_run):
    folder = make_run()
    assert source_changes(folder) == []
    digest = source_digest()
    folder.sources_json.write_text(json.dumps(digest))
    assert source_changes(folder) == []
    changed = {**digest, "qk_lightning/config/paths.py": "0", "qk_lightning/config/gone.py": "0"}
    folder.sources_json.write_text(json.dumps(changed))
    assert source_changes(folder) == ["qk_lightning/config/gone.py", "qk_lightning/config/paths.py"]


def test_parts_from_outside_the_package_count(root, make_run, monkeypatch):
    (root / "my_bridges.py").write_text("class Foo: ...\n")
    monkeypatch.syspath_prepend(str(root))
    __import__("my_bridges")
    cfg = OmegaConf.create({"connector": {"name": "my_bridges:Foo", "width": 3}})
    digest = source_digest(cfg)
    assert "my_bridges.py" in digest
    folder = make_run()
    folder.sources_json.write_text(json.dumps(digest))
    (root / "my_bridges.py").write_text("class Foo:\n    better = True\n")
    assert source_changes(folder) == ["my_bridges.py"]
