"""`qk evaluate` and `qk data` refuse what they would ignore."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qk_lightning.cli.evaluate_folder import default_worlds, warn_of_missing
from qk_lightning.cli.main import USER_ERROR, main
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.paths import list_suites


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


def test_help_names_the_suites(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"suites: {', '.join(list_suites())}" in text


def test_a_folder_that_is_not_there_is_answered_before_the_libraries_load(root):
    code = "import sys; from qk_lightning.cli.main import main; "
    code += "code = main(['evaluate', '--images', 'nowhere', 'scenes']); "
    code += "sys.exit(99 if 'torch' in sys.modules else code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == USER_ERROR
    assert "--images" in done.stderr


@pytest.mark.parametrize(
    ("missing", "limit", "said"),
    [
        (230, None, "230 of 240 pictures are missing and count as failed; exported with --limit?"),
        (230, 60, "230 of 240 pictures are missing and count as failed; exported with another"),
        (120, None, ""),
        (0, None, ""),
    ],
)
def test_a_folder_with_few_of_the_pictures_is_warned_of(missing, limit, said, capsys):
    warn_of_missing({"num_missing": missing, "num_planned": 240}, limit)
    text = capsys.readouterr().out
    assert text.startswith(f"warning: {said}") if said else not text


@pytest.mark.parametrize("text", ["scenes=64", "scenes=null", "scenes=scenes", "moon.size=3"])
def test_a_world_is_chosen_by_its_options_alone(text):
    with pytest.raises(ConfigError, match="write <world>.<option>=value"):
        default_worlds([text])


def test_several_options_of_several_worlds(root):
    worlds = default_worlds(["scenes.size=64", "scenes.num_val=9", "avatars.num_val=5"])
    assert (worlds["scenes"].size, worlds["scenes"].num_val) == (64, 9)
    assert worlds["avatars"].num_val == 5
