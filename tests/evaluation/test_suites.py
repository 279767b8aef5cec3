"""Suites: what is planned, drawn, resumed, refused, scored and averaged. The reader is a stub."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from qk_lightning.config.errors import ConfigError
from qk_lightning.config.paths import list_suites
from qk_lightning.data.worlds.avatars import Avatars
from qk_lightning.evaluation.controls import control_levels, shuffled
from qk_lightning.evaluation.draw import draw_folder
from qk_lightning.evaluation.item import Metric, split_of
from qk_lightning.evaluation.manifest import MANIFEST, read_manifest
from qk_lightning.evaluation.prompt_set import check_prompt_set, export, make_prompt_set
from qk_lightning.evaluation.run_suite import (
    Origin,
    Request,
    fitting_suites,
    score_prompts,
    suites_for,
)
from qk_lightning.evaluation.score import find_pictures, score_folder
from qk_lightning.evaluation.suite import Suite, choose, open_suite, worlds_of
from qk_lightning.evaluation.untouched import untouched_parts
from qk_lightning.evaluation.verdict import Verdict
from qk_lightning.sweeps.items import read_items

SETTINGS = {"run": "me", "identity": "1a", "num_inference_steps": 2, "guidance_scale": 1.0}


class Exact(Suite):
    """Right is what equals the target; no reader."""

    name = "exact"
    parts = {"avatars": ("text_to_image", "editing")}

    def scorer(self, world):
        return "exact 1"

    def verdicts(self, world, pictures):
        same = [
            bool((image == world.image(item.target)).all())
            for image, item in zip(pictures.images, pictures.items, strict=True)
        ]
        return [Verdict(right, float(right), "", {"half": right / 2}) for right in same]

    def metrics(self, items):
        return [Metric("overall", "verdict", mean_of="tag"), Metric("half", "half", ("editing",))]


@pytest.fixture(scope="module")
def worlds():
    return worlds_of(Avatars(num_identities=6, num_val=8))


@pytest.fixture
def prompts(worlds):
    return make_prompt_set(Exact(), worlds, 6)


@pytest.fixture
def draws(worlds, prompts):
    """A drawer that is right every second time, and the list of what it drew."""
    drawn, right = [], {item.id for item in prompts.items[1::2]}

    def draw(items, sample):
        drawn.extend((item.id, sample) for item in items)
        images = [worlds[item.world].image(item.target) for item in items]
        pairs = zip(images, items, strict=True)
        return np.stack([image if item.id in right else 255 - image for image, item in pairs])

    return draw, drawn


def draw(folder, prompts, drawer, num_samples=1, **settings):
    given = {**SETTINGS, **settings}
    return draw_folder(folder, prompts.items, num_samples, drawer, given, 4, prompts.worlds)


def test_a_prompt_set_is_the_same_every_time_and_its_hash_tells_others_apart(worlds, tmp_path):
    first, again = (make_prompt_set(Exact(), worlds, 6) for _ in range(2))
    assert first.sha256 == again.sha256
    others = [make_prompt_set(Exact(), worlds, 7), make_prompt_set(Exact(), worlds, 6, seed=1)]
    elsewhere = worlds_of(Avatars(num_identities=6, num_val=8, world_seed=1))
    others.append(make_prompt_set(Exact(), elsewhere, 6))
    assert len({first.sha256, *(other.sha256 for other in others)}) == 4
    export(first, worlds, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    keys = "facts id index inputs prompt seed split suite tag task world"
    assert sorted(lines[0]) == keys.split()
    for line in lines:
        assert (tmp_path / "targets" / f"{line['id']}.png").is_file()
        assert all((tmp_path / given["file"]).is_file() for given in line["inputs"])
    assert lines[-1]["inputs"][0]["role"] == "source"
    header = json.loads((tmp_path / "prompt_set.json").read_text())
    assert header["sha256"] == first.sha256
    check_prompt_set(tmp_path, first)
    with pytest.raises(ConfigError, match="the worlds"):
        check_prompt_set(tmp_path, others[-1])


def test_drawing_goes_on_where_it_was_stopped(prompts, draws, tmp_path):
    drawer, drawn = draws

    def stopped(items, sample):
        if len(drawn) >= 4:
            raise KeyboardInterrupt
        return drawer(items, sample)

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, prompts, stopped)
    text = (tmp_path / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(text[:-20])  # as a kill leaves it
    assert draw(tmp_path, prompts, drawer) == 12 - 3
    assert draw(tmp_path, prompts, drawer) == 0
    assert len(read_manifest(tmp_path)) == 12
    one = prompts.items[0].id
    (tmp_path / f"images/{one}/0000.png").write_bytes(b"damaged")
    assert draw(tmp_path, prompts, drawer) == 1
    assert draw(tmp_path, prompts, drawer, num_samples=2) == 12
    assert draw(tmp_path, prompts, drawer, num_inference_steps=3) == 12  # another sampler
    asked = [replace(item, prompt=f"{item.prompt} please") for item in prompts.items]
    others = replace(prompts, items=tuple(asked))  # the same ids
    assert draw(tmp_path, others, drawer, num_inference_steps=3) == 12
    moved = replace(others, worlds=dict.fromkeys(others.worlds, "redrawn"))
    assert draw(tmp_path, moved, drawer, num_inference_steps=3) == 12


def test_a_file_that_was_changed_is_refused_and_a_missing_one_fails(
    prompts, draws, worlds, tmp_path
):
    draw(tmp_path, prompts, draws[0])
    rows = score_folder(
        prompts.suite, worlds, prompts.items, find_pictures(tmp_path, prompts.items, 1), 1
    )
    assert sum(row["verdict"] for row in rows) == 6
    right = next(row["id"] for row in rows if row["verdict"])
    shutil.rmtree(tmp_path / "images" / right)
    found = find_pictures(tmp_path, prompts.items, 1)
    rows = score_folder(prompts.suite, worlds, prompts.items, found, 1)
    assert sum(row["verdict"] for row in rows) == 5
    missing = next(row for row in rows if row["id"] == right)
    assert (missing["reason"], missing["scored"]) == ("missing", False)
    other = tmp_path / "images" / rows[-1]["id"] / "0000.png"
    Image.new("RGB", (32, 32)).save(other)
    with pytest.raises(ConfigError, match="1 differ"):
        find_pictures(tmp_path, prompts.items, 1)
    (tmp_path / MANIFEST).write_text('{"file": "somebody else\'s"}\n')
    with pytest.raises(ConfigError, match="a line as `qk evaluate` writes it"):
        find_pictures(tmp_path, prompts.items, 1)


def test_a_report_reads_back_what_each_item_counts(prompts, draws, worlds, tmp_path):
    draw(tmp_path, prompts, draws[0])
    output = tmp_path / "run/evaluations/final/exact"
    summary = score_prompts(
        tmp_path, output, prompts, worlds, Request(6), Origin("me", "1a", SETTINGS), None
    )
    assert summary["metrics"]
    for name, entry in summary["metrics"].items():
        groups: dict[str, list[float]] = {}
        for score in read_items(tmp_path / "run", name).values():
            groups.setdefault(score.group, []).append(score.value)
        value = np.mean([np.mean(values) for values in groups.values()])
        assert value == pytest.approx(entry["value"]), name
    assert read_items(tmp_path / "run", "val/loss") == {}


def test_anybodys_folder_is_scored_with_its_controls(prompts, worlds, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for item in prompts.items[:-1]:
        picture = Image.fromarray(worlds[item.world].image(item.target).transpose(1, 2, 0))
        picture.save(folder / f"{item.id}.png")
    picture.resize((64, 64)).save(folder / f"{prompts.items[0].id}.png")
    arguments = (prompts, worlds, Request(6), Origin("theirs"), None)
    summary = score_prompts(folder, tmp_path / "out", *arguments)
    assert (summary["num_planned"], summary["num_missing"]) == (12, 1)
    assert summary["notes"] == ["pictures of 64 x 64 were brought to 32 x 32"]
    (folder / f"{prompts.items[0].id}.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="a picture that can be read"):
        score_prompts(folder, tmp_path / "out", *arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"files such as {prompts.items[0].id}"):
        score_prompts(tmp_path / "empty", tmp_path / "out", *arguments)
    overall = summary["metrics"]["eval/exact/overall"]
    assert overall["value"] == pytest.approx(5 / 6)
    assert overall["ci_low"] < 5 / 6 < overall["ci_high"]
    controls = overall["controls"]
    assert controls["gt"] == 1
    assert controls["shuffled"] == controls["blank"] == controls["own_shuffled"] == 0
    assert "recon" not in controls  # there is no codec
    half = summary["metrics"]["eval/exact/half"]
    assert half["value"] == pytest.approx(0.5 * 5 / 6)
    assert half["num_missing"] == 1
    lines = (tmp_path / "out/results.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary


def test_controls_are_computed_once(prompts, worlds, monkeypatch):
    levels = control_levels(prompts, worlds, None)
    assert set(levels) == {"gt", "shuffled", "blank", "copy"}
    monkeypatch.setattr(Exact, "verdicts", lambda *_: pytest.fail("scored again"))
    assert control_levels(prompts, worlds, None) == levels


def test_shuffling_pairs_nobody_with_himself(prompts):
    pairs = shuffled(prompts.items)
    assert sorted(item.id for item, _ in pairs) == sorted(item.id for item in prompts.items)
    assert all(item.id != other.id and item.task == other.task for item, other in pairs)
    assert shuffled(prompts.items[:1]) == []  # nobody to pair it with


def test_shuffling_keeps_away_from_the_same_picture():
    world = Avatars(num_identities=12, num_val=4)
    items = make_prompt_set(open_suite("avatars"), {"avatars": world}).items
    edits = [pair for pair in shuffled(items) if pair[0].task == "editing"]
    assert len(edits) == 2 * world.num_val
    for item, other in edits:  # the edit back shows this one's source
        assert not {*item.images, item.target} & {*other.images, other.target}


def test_few_items_are_of_all_tags_and_among_more(worlds):
    captions = [item for item in make_prompt_set(Exact(), worlds, 40).items if not item.roles]
    tagged = [
        replace(item, id=str(n), tag="abc"[n % 3], split="new" if n > 10 else "seen")
        for n, item in enumerate(captions)
    ]
    few, more = choose(tagged, 9), choose(tagged, 15)
    assert [one.tag for one in few].count("a") == [one.tag for one in few].count("b") == 3
    assert {one.id for one in few} < {one.id for one in more}
    assert {one.split for one in more} == {"new", "seen"}  # not the first ones
    assert choose(tagged, None) == choose(tagged, 99) == tagged


def test_suites_are_found_by_name_and_by_what_the_worlds_offer(worlds):
    wanted = {"avatars", "scenes", "scenes_edit", "reconstruction", "knowledge", "roles"}
    assert set(list_suites()) == wanted
    assert all(open_suite(name).name == name for name in wanted)
    found = [suite.name for suite in suites_for("all", worlds)]
    assert found == ["avatars", "reconstruction", "roles"]
    assert not fitting_suites(worlds, ["transformation"])
    with pytest.raises(ConfigError, match="there is none"):
        suites_for("all", worlds, ["transformation"])
    with pytest.raises(ConfigError, match="did you mean 'avatars'"):
        suites_for("avatar", worlds)
    with pytest.raises(ConfigError, match="needs scenes"):
        suites_for("scenes", worlds)


def test_a_split_is_named_by_what_was_held_out():
    assert split_of({}) == split_of({"held_out": {"pair": False, "identity": True}}) == "seen"
    assert split_of({"held_out": {"pair": True, "phrasing": True}}) == "pair+phrasing"


def test_over_edit_notices_a_tint_and_an_edge_is_free():
    source = np.full((1, 3, 8, 8), 100, dtype=np.uint8)
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 2:4] = True
    edited = source.copy()
    edited[0, :, 1:5, 1:5] = 0  # the edit and its edge
    (parts,) = untouched_parts(edited, source, [mask])
    assert parts == {"untouched_psnr": 100.0, "over_edit": 0.0}
    edited[0, 0] += 22
    (parts,) = untouched_parts(edited, source, [mask])
    assert parts["over_edit"] == 1
    assert parts["untouched_psnr"] == pytest.approx(20 * np.log10(255 / (22 / 3**0.5)))
    assert untouched_parts(edited, source, [np.ones((8, 8), dtype=bool)]) == [{}]
