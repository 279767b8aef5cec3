"""The leakage check: silent where nothing leaks, and it finds each kind of leak."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_world import TinyWorld

from qk_lightning.cli.main import main
from qk_lightning.data.leakage import check_leakage
from qk_lightning.data.worlds.mixture import Mixture


class Split(TinyWorld):
    """A world of which val shows other pictures, words and things; leaks are put in by name."""

    counts = {
        ("text_to_image", "train"): [((), 10)],
        ("text_to_image", "val"): [((), 6)],
    }
    tasks = ("text_to_image",)

    def __init__(self, leak=""):
        super().__init__(num_images=16)
        self.leak = leak

    def image(self, row):
        same = {"picture": (10, 1), "other picture": (14, 1)}.get(self.leak)
        return super().image(same[1] if same and row == same[0] else row)

    def sample(self, task, split, index):
        sample = super().sample(task, split, index)
        place = index % self.num_samples(task, split)
        is_val = split == "val"
        words = {"shape": "circle" if place % 2 else "square", "number": place}
        prompt = f"a {words['shape']} numbered {place}"
        kinds = {"pair": is_val and place < 3, "phrasing": is_val and place == 3}
        if kinds["phrasing"] or (self.leak == "phrasing" and not is_val and place == 7):
            prompt = f"three {words['shape']}s of a kind, please"
        if self.leak == "same prompt" and not is_val and place == 7:
            prompt = "three circles of a kind, please"
        target = 10 + place if is_val else place
        facts = {**words, "held_out": kinds}
        return replace(sample, target=target, prompt=prompt, facts=facts)

    def violations(self, sample):
        if self.leak == "pair" and sample.target == 4:
            return ["pair"]
        return [kind for kind, is_true in sample.facts["held_out"].items() if is_true]

    def qa(self, index, split):
        return (12 if self.leak == "question" else index % 10), "what?", "that"


def _leaks(world, **options):
    return [(item.world, item.kind) for item in check_leakage(world, **options).leaks]


def test_nothing_is_found_where_nothing_leaks():
    report = check_leakage(Split(), num_questions=20)
    assert not report.leaks and "nothing that is held out is in train" in report.describe()
    found = {item.kind: (item.num_val, item.num_train) for item in report.findings}
    assert found == {
        "pair": (3, 10),
        "phrasing": (1, 10),
        "pictures of held-out items": (3, 10),
        "other pictures": (3, 10),
        "questions": (4, 20),
    }


@pytest.mark.parametrize(
    ("leak", "kind"),
    [
        ("picture", "pictures of held-out items"),
        ("question", "pictures of held-out items"),
        ("phrasing", "phrasing"),
        ("same prompt", "phrasing"),
        ("pair", "pair"),
    ],
)
def test_each_kind_of_leak_is_found_and_named(leak, kind):
    assert _leaks(Split(leak)) == [("", kind)]
    world = Mixture.of({"good": Split(), "bad": Split(leak)})
    assert _leaks(world) == [("bad", kind)]
    assert f"LEAK: bad {kind}: " in check_leakage(world).describe()


def test_an_equal_picture_of_an_item_that_is_not_held_out_is_told_but_allowed():
    report = check_leakage(Split("other picture"))
    assert not report.leaks and "1 (allowed)" in report.describe()


def test_a_world_that_says_nothing_holds_out_its_pictures():
    # Val rows 0.. are train rows too: targets are numbered from 0 in both splits.
    assert _leaks(TinyWorld()) == [("", "pictures of held-out items")]


def test_the_first_samples_only():
    seen = []
    check_leakage(TinyWorld(), 6, progress=lambda *progress: seen.append(progress))
    assert seen[-1] == (6, 6)


def test_the_command_says_so_and_fails_on_a_leak(capsys, root, monkeypatch):
    small = ["num_scenes=20", "num_val=9", "--limit", "60"]
    assert main(["data", "leakage", "scenes", *small]) == 0
    assert "nothing that is held out is in train" in capsys.readouterr().out
    monkeypatch.setattr(
        "qk_lightning.data.worlds.scenes.Scenes.violations", lambda self, sample: ["pair"]
    )
    assert main(["data", "leakage", "scenes", *small]) == 1
    assert "LEAK: pair: train/" in capsys.readouterr().out
