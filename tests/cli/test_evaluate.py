"""`qk evaluate` and `qk data` refuse what they would ignore."""

from __future__ import annotations

import pytest

from qk_lightning.cli.evaluate import default_worlds
from qk_lightning.cli.main import USER_ERROR, main
from qk_lightning.config.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["evaluate", "readers", "--images", "here"], "--images"),
        (["evaluate", "readers", "scenes.size=64"], "scenes.size=64"),
        (["evaluate", "prompts", "scenes", "--num-samples", "4"], "--num-samples"),
        (["evaluate", "some_run", "scenes", "--output", "there"], "--output"),
        (["evaluate", "some_run", "scenes", "scenes.size=64"], "scenes.size=64"),
        (["evaluate", "--images", "here", "some_run", "scenes", "scenes.size=64"], "scenes.size"),
        (["evaluate", "some_run", "scenes", "--limit", "0"], "--limit"),
        (["data", "leakage", "scenes", "--limit", "0"], "--limit"),
        (["data", "show", "scenes", "--per-task", "-1"], "--per-task"),
    ],
)
def test_what_would_be_ignored_is_refused(words, named, capsys, root):
    assert main(words) == USER_ERROR
    assert named in capsys.readouterr().err
    assert not list(root.iterdir())


@pytest.mark.parametrize("text", ["scenes=64", "scenes=null", "scenes=scenes", "moon.size=3"])
def test_a_world_is_chosen_by_its_options_alone(text):
    with pytest.raises(ConfigError, match="write <world>.<option>=value"):
        default_worlds([text])


def test_several_options_of_several_worlds(root):
    worlds = default_worlds(["scenes.size=64", "scenes.num_val=9", "avatars.num_val=5"])
    assert (worlds["scenes"].size, worlds["scenes"].num_val) == (64, 9)
    assert worlds["avatars"].num_val == 5
