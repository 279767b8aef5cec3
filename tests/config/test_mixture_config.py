"""Mixtures in YAML: options of the worlds, their mistakes, sizes, weights and identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from qk_lightning.assembly.build import open_world
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError

WORLDS = "{a: {name: avatars, num_identities: 6, num_val: 4}, avatars: {weight: 2, num_val: 8}}"
PRESET = f"""
system: {{name: autoencoder}}
data: {{world: {{name: mixture, worlds: {WORLDS}}}, tasks: {{text_to_image: 1}}}}
autoencoder: {{name: kl}}
trainable: {{autoencoder: full}}
"""


@pytest.fixture
def preset(root: Path) -> str:
    (root / "experiments").mkdir()
    (root / "experiments" / "mixed.yaml").write_text(PRESET)
    return "mixed"


def _identity(preset, *overrides):
    return compose(preset, overrides).identity(None)


def test_options_of_the_worlds_are_filled_in_and_opened(preset):
    node = compose(preset, ["data.world.worlds.avatars.num_identities=5"]).cfg.data.world
    assert node.size == 32 and node.worlds.a.style == "micah" and node.worlds.a.weight == 1.0
    world = open_world(node)
    assert world.weights == {"a": 1.0, "avatars": 2.0} and world.size == 32
    assert [part.world.num_train for part in world.parts()] == [6, 5]
    off = open_world(compose(preset, ["data.world.worlds.a.weight=0"]).cfg.data.world)
    assert list(off.worlds) == ["avatars"]


@pytest.mark.parametrize("override", ["data.world.size=64", "data.world.worlds.a.size=64"])
def test_one_size_is_said_once(preset, override):
    node = compose(preset, [override]).cfg.data.world
    assert {node.size, node.worlds.a.size, node.worlds.avatars.size} == {64}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.world.worlds.a.num_vall=3", r"data.world.worlds.a.num_vall.*\n.*'num_val'"),
        ("data.world.worlds.a.wieght=3", r"(?s)data.world.worlds.a.wieght.*'weight'"),
        ("data.world.worlds.a.weight=-1", r"data.world.worlds.a.weight = -1.*from 0"),
        ("data.world.worlds.a.weight=much", r"data.world.worlds.a.weight = 'much'"),
        ("data.world.worlds.a.num_val=x", r"data.world.worlds.a.num_val = 'x'.*expected int"),
        ("data.world.worlds.avatarz.weight=1", r"(?s)worlds.avatarz.name.*'avatars'"),
        ("data.world.worlds.a.name=mixture", "no mixture itself"),
        ("data.world.worlds.a=3", r"data.world.worlds.a = 3.*the options of a world"),
        ("data.world.worlds.a.path=x", r"data.world.worlds.a.path"),
        ("data.world.wrlds.a=1", "'worlds'"),
    ],
)
def test_a_mistake_is_named_with_its_full_key(preset, override, said):
    with pytest.raises(ConfigError, match=said) as caught:
        compose(preset, [override])
    (problem,) = caught.value.problems
    assert problem.origin == ("" if problem.key.endswith("avatarz.name") else "command line")


def test_two_sizes_and_no_world_at_all_are_problems(preset):
    sizes = ["data.world.worlds.a.size=64", "data.world.worlds.avatars.size=32"]
    with pytest.raises(ConfigError, match=r"worlds.avatars.size = 32.*64: all worlds"):
        compose(preset, sizes)
    assert compose(preset, [*sizes, "data.world.worlds.avatars.weight=0"]).cfg.data.world.size == 64
    off = [f"data.world.worlds.{label}.weight=0" for label in ("a", "avatars")]
    with pytest.raises(ConfigError, match="at least one world with a weight above 0"):
        compose(preset, off)


def test_a_constructors_own_problem_has_the_full_key(preset):
    node = compose(preset, ["data.world.worlds.a.num_val=1"]).cfg.data.world
    with pytest.raises(
        ConfigError, match=r"(?s)data.world.worlds.a.num_val = 1.*worlds.a.num_val="
    ):
        open_world(node)


def test_identity_follows_what_the_worlds_are(preset):
    plain = _identity(preset)
    for same in (
        "data.world.worlds.a.style=micah",
        "data.world.worlds.avatars.name=avatars",
        "data.world.size=32",
        "data.world.worlds.new={name: avatars, weight: 0}",
    ):
        assert _identity(preset, same) == plain, same
    others = ["data.world.worlds.a.weight=2", "data.world.worlds.a.weight=0", "data.world.size=64"]
    others += ["data.world.worlds.a.num_val=6", "data.world.worlds.b={name: avatars}"]
    assert len({plain, *(_identity(preset, other) for other in others)}) == 6


def test_identity_takes_paths_by_their_content(preset, root: Path):
    file = root / "mine.jsonl"

    def identity(text):
        file.write_text(f'{{"prompt": "{text}", "target": "x.png"}}\n')
        return _identity(preset, f"data.world.worlds.a={{name: jsonl, path: {file}}}")

    first = identity("a cat")
    assert identity("a dog") != first
    assert identity("a cat") == first


def test_naming_another_world_replaces_its_options(preset, root):
    (root / "x.jsonl").touch()
    overrides = ["data.world.worlds.a={name: jsonl, path: x.jsonl}", "data.world.worlds.a.weight=3"]
    node = compose(preset, overrides).cfg.data.world.worlds.a
    assert dict(node) == {
        "name": "jsonl",
        "path": "x.jsonl",
        "size": 32,
        "val_fraction": 0.05,
        "weight": 3.0,
    }
