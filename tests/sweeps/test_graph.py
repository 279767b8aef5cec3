"""The graph: shared ancestors once, the longest chain first, times from what was measured."""

from __future__ import annotations

from dataclasses import replace

import fake_stages
import pytest

from qk_lightning.sweeps.graph import build_graph, descendants, makespan, ready


@pytest.fixture
def graph(project):
    members = [
        ("narrow", fake_stages.plan_chain("", ["width=1"])),
        ("wide", fake_stages.plan_chain("", ["width=4"])),
        ("sharp", fake_stages.plan_chain("", ["width=4", "sharpness=9"])),
    ]
    return build_graph(members)


def test_shared_ancestors_are_one_run(graph):
    stages = [run.plan.stage for run in graph.values()]
    assert stages == ["codec", "align", "refine", "align", "refine", "refine"]
    codec = next(iter(graph.values()))
    assert codec.users == ["narrow", "wide", "sharp"]
    assert codec.label == "codec narrow and 2 more"


def test_children_wait_for_their_parent(graph):
    (first,) = ready(graph)
    assert first.plan.stage == "codec"
    first.done = True
    assert [run.plan.stage for run in ready(graph)] == ["align", "align"]
    assert len(ready(graph, [ready(graph)[0].identity])) == 1


def test_the_longest_chain_goes_first(graph):
    codec, *_ = graph.values()
    codec.done = True
    slow = next(run for run in graph.values() if run.users == ["sharp"])
    slow.seconds = 100.0
    assert ready(graph)[0].users == ["wide", "sharp"]


def test_descendants_of_a_run(graph):
    align = next(run for run in graph.values() if run.users == ["wide", "sharp"])
    assert [run.users for run in descendants(graph, align.identity)] == [["wide"], ["sharp"]]


def test_makespan_plays_the_schedule_through(graph):
    # codec 10, then two aligns beside each other 10, then three refines on two slots 20
    assert makespan(graph, 2) == pytest.approx(40.0)
    assert makespan(graph, 1) == pytest.approx(60.0)
    codec, *_ = graph.values()
    codec.progress = 0.5
    assert makespan(graph, 1) == pytest.approx(55.0)


def test_measured_times_win_over_the_presets(project):
    done = fake_stages.plan_chain("", ["seed=7"])[0].write()
    done.write_status(state="done", seconds=3.0, max_steps=4)
    run, *others = build_graph([("", fake_stages.plan_chain("", []))]).values()
    assert (run.seconds, run.measured) == (3.0, True)
    assert (others[0].seconds, others[0].measured) == (3.0, False)  # of 10, stretched alike


def test_a_presets_figure_is_stretched_to_the_runs_own_steps(project):
    codec, *_ = fake_stages.plan_chain("", [])
    (run,) = build_graph([("", [replace(codec, stretch=25.0)])]).values()
    assert run.seconds == 2.5 + 7.5 * 25  # loading and scoring take no longer
