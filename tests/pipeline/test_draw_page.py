"""The page of `qk generate --ui`: what it draws, without gradio; the page itself where that is."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qk_lightning.cli.main import main
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.pipeline import QueryKontextPipeline, page

OWN = dict.fromkeys(page.NUMBERS, "")


class FakePipeline:
    """Draws a plain picture whose grey is the seed, and remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[dict[str, object]] = []

    def __call__(self, prompt: str, **given: object) -> list[Image.Image]:
        self.asked.append({"prompt": prompt, **given})
        return [Image.new("RGB", (32, 16), (given["seed"],) * 3)]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), (" 3, 1;1 ", [3, 1]), ("0-2 7", [0, 1, 2, 7]), ("5-5", [5])],
)
def test_seeds_are_read_as_people_write_them(text: str, seeds: list[int]) -> None:
    assert page.read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "one", "1.5", "-3", "0-1000", str(2**63)])
def test_what_is_no_seed_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        page.read_seeds(text)


def test_every_run_draws_the_same_for_every_seed() -> None:
    made: list[FakePipeline] = []

    def load(name: str) -> FakePipeline:
        made.append(FakePipeline(name))
        return made[-1]

    pipelines = page.Pipelines(load)
    images = [("source", Image.new("RGB", (8, 8)))]
    options = {**OWN, "guidance_scale": " 3", "num_inference_steps": "4"}
    grid = page.draw_grid(pipelines, ["a", "b"], "a cat", images, "5, 7", options)
    captions = ["a, seed 5", "b, seed 5", "a, seed 7", "b, seed 7"]
    assert [caption for _, caption in grid.pictures] == captions and grid.columns == 2
    assert [picture.getpixel((0, 0))[0] for picture, _ in grid.pictures] == [5, 5, 7, 7]
    assert grid.pictures[0][0].size == (256, 128)  # enlarged for the eye
    wanted = {"prompt": "a cat", "images": images, "guidance_scale": 3.0, "num_inference_steps": 4}
    assert made[0].asked == made[1].asked == [{**wanted, "seed": seed} for seed in (5, 7)]
    page.draw_grid(pipelines, ["b"], "", [], "0", OWN)
    assert len(made) == 2  # loaded once
    with pytest.raises(ConfigError, match="height = '3.5': expected a whole number"):
        page.draw_grid(pipelines, ["b"], "", [], "0", {**OWN, "height": "3.5"})
    with pytest.raises(ConfigError, match="at least one run"):
        page.draw_grid(pipelines, [], "", [], "0", OWN)


def test_the_run_used_longest_ago_leaves_the_memory() -> None:
    made: list[str] = []
    pipelines = page.Pipelines(lambda name: made.append(name) or FakePipeline(name))
    for name in ("a", "b", "c", "d", "a", "e", "a", "b"):
        pipelines.get(name)
    assert made == ["a", "b", "c", "d", "e", "b"]


def test_without_gradio_the_extra_is_named(
    stage3_root: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QK_ROOT", str(stage3_root))
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["generate", "--ui"]) == 2
    assert "pip install -e '.[ui]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ui", "--num-images", "2"], ("--num-images = 2", "no effect on the page")),
        (["--ui", "--source", "gone.png"], ("picture = 'gone.png'",)),
        (["--ui", "--port", "0"], ("--port = 0", "1 to 65535")),
        (["--ui"], ("a finished run that draws pictures", "qk fit")),
        (["--port", "80", "stage3"], ("--port = 80", "--ui")),
        ([], ("run", "one run")),
        (["stage2", "stage3"], ("run = 'stage2 stage3'", "one run")),
    ],
)
def test_words_that_do_not_fit_are_named(words, says, capsys) -> None:
    assert main(["generate", *words]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in says), said


@pytest.mark.slow
def test_the_page_draws_what_the_pipeline_draws(stage3: RunFolder, monkeypatch) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    pytest.importorskip("gradio", reason="the extra `ui` is not installed")
    pipelines = page.Pipelines(lambda _: QueryKontextPipeline.from_run(stage3))
    built = page.build_page(pipelines, ["mine"], ["mine"], {"prompt": "a person", "seeds": 3})
    assert built.analytics_enabled is False
    (draw,) = [one.fn for one in built.fns.values() if one.api_name == "draw"]
    gallery, said = draw(
        ["mine"], "a person", "3-4", *[None] * (1 + page.NUM_REFERENCES), *[""] * 5
    )
    assert "2 pictures" in said and gallery.columns == 1
    expected = pipelines.get("mine")("a person", seed=3)[0]
    (first, _), _ = page.draw_grid(pipelines, ["mine"], "a person", [], "3-4", OWN).pictures
    assert np.array_equal(np.asarray(first)[::8, ::8], np.asarray(expected))
    gradio = importlib.import_module("gradio")
    with pytest.raises(gradio.Error, match="a multiple of 8"):
        draw(["mine"], "", "0", *[None] * (1 + page.NUM_REFERENCES), "", "", "", "33", "")


@pytest.mark.slow
def test_the_server_prints_its_link_and_ends_with_ctrl_c(stage3_root: Path) -> None:
    pytest.importorskip("gradio", reason="the extra `ui` is not installed")
    from urllib.request import urlopen

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "qk_lightning", "generate", "--ui", "--port", str(port)]
    variables = {**os.environ, "QK_ROOT": str(stage3_root)}
    server = subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == f"http://127.0.0.1:{port}  (Ctrl-C ends it)\n"
        with urlopen(f"http://127.0.0.1:{port}", timeout=30) as answer:
            text = answer.read().decode()
        assert "qk generate" in text and "googleapis" not in text
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()
