"""`--redo` of a sweep: what other code made is trained again, and nothing else is removed."""

from __future__ import annotations

import fake_stages
import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.run import redo_sweep


def test_redo_trains_again_what_other_code_made(trained, sweep_of, run):
    sweep = sweep_of(seeds=(0,))
    align = trained(sweep).members[1].chain[1].folder
    align.sources_json.write_text('{"qk_lightning/config/paths.py": "of another day"}')
    plan = plan_sweep(sweep)
    assert "* done by other code (config/paths.py differs)" in plan.describe()
    result, _ = run(sweep)
    report = result.report.read_text()
    assert "| width=4 * |" in report
    assert report.count("\\* other code: config/paths.py differs") == 1
    assert "  * other code: config/paths.py differs" in result.result["summary"]
    before = len(fake_stages.calls())
    run(sweep, redo=True)
    assert fake_stages.calls()[before:] == ["align 4 0", "refine 4 0"]


def test_redo_deletes_nothing_while_it_is_planned(trained, sweep_of):
    sweep = sweep_of(seeds=(0,))
    align, refine = (stage.folder for stage in trained(sweep).members[1].chain[1:])
    align.sources_json.write_text('{"qk_lightning/config/paths.py": "of another day"}')
    plan, doomed = redo_sweep(plan_sweep(sweep))
    assert [item.folder.name for item in doomed] == [align.name, refine.name]
    assert "3 done, 2 to run" in plan.describe()
    assert align.is_done and refine.is_done


def test_redo_is_refused_while_another_run_needs_what_it_removes(trained, sweep_of, run):
    trained(sweep_of(seeds=(0,)))
    other = sweep_of(seeds=(0,), name="sharp", axes={"sharpness": [3]}, baseline={})
    child = trained(other).members[0].chain[-1].folder
    sweep = sweep_of(seeds=(0,))
    align = plan_sweep(sweep).members[0].chain[1].folder
    align.sources_json.write_text('{"qk_lightning/config/paths.py": "of another day"}')
    before = fake_stages.calls()
    with pytest.raises(ConfigError, match=f"qk runs rm {child.name}"):
        run(sweep, redo=True)
    assert align.is_done
    assert fake_stages.calls() == before
    child.remove()
    run(sweep, redo=True)
    assert fake_stages.calls()[len(before) :] == ["align 1 0", "refine 1 0"]


def test_redo_leaves_a_run_alone_that_is_in_use(trained, sweep_of, run):
    sweep = sweep_of(seeds=(0,))
    align = trained(sweep).members[1].chain[1].folder
    align.sources_json.write_text('{"qk_lightning/config/paths.py": "of another day"}')
    with align.lock(), pytest.raises(ConfigError, match="not in use"):
        run(sweep, redo=True)
    assert align.is_done
