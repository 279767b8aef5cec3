"""Wrong words, numbers, files and folders on the command line. `runs/` holds a trained chain."""

from __future__ import annotations

import shutil
from pathlib import Path

from malformed_case import Case
from PIL import Image

CACHE = ("runs/cache",)
SMALL = "avatars.num_identities=4 avatars.num_val=4 scenes.num_scenes=2 scenes.num_val=2 --limit 2"
DRAW = "generate stage2 --prompt x --output ROOT/out"


def red(root: Path) -> None:
    """Draw a picture that no item of a suite has."""
    (root / "theirs").mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), "red").save(root / "theirs" / "0.png")


def no_runs(root: Path) -> None:
    """Put a file where all outputs go."""
    shutil.rmtree(root / "runs")
    (root / "runs").write_text("mine")


def linked(root: Path) -> None:
    """Move a run away and leave a link in its place."""
    (run,) = (root / "runs").glob("stage2-*")
    run.rename(root / "elsewhere")
    run.symlink_to(root / "elsewhere")


CASES = [
    Case("no such verb", "fitt tiny/stage1", ("there is no verb 'fitt'", "did you mean 'fit'")),
    Case("no preset", "fit", ("preset", "required")),
    Case("no such flag", "fit tiny/stage1 --plann", ("--plann", "did you mean --plan?")),
    Case("no such preset", "fit tiny/stage9", ("tiny/stage9", "did you mean 'tiny/stage")),
    Case("no such option", "config tiny/stage1 --explain seeed", ("--explain", "'seed'")),
    Case("no such sweep", "sweep sweeps/num_querys", ("num_querys", "'num_queries'")),
    Case("no pictures asked for", f"{DRAW} --num-images 0", ("--num-images = 0", "1 or more")),
    Case("the beginning of a flag", f"{DRAW} --image ROOT/gone.png",
         ("no option --image", "--source or --reference")),
    Case("fewer than none", f"{DRAW} --num-images -1", ("--num-images = -1", "1 or more")),
    Case("a seed of letters", f"{DRAW} --seed one", ("--seed", "invalid int value: 'one'")),
    Case("a seed below 0", f"{DRAW} --seed -5", ("--seed = -5", "0 to 2^63 - 1")),
    Case("no steps", f"{DRAW} --num-inference-steps 0", ("num_inference_steps = 0", "1 or more")),
    Case("guidance of nan", f"{DRAW} --guidance-scale nan", ("guidance_scale", "a finite number")),
    Case("no such device", f"{DRAW} --device abacus", ("device = 'abacus'", "use cpu")),
    Case("a picture that is not", f"{DRAW} --source ROOT/gone.png", ("gone.png", "check the path")),
    Case("a prompt without its flag", ("generate", "stage2", "a person"), ("a person", "usage")),
    Case("a file for a folder", "generate stage2 --output ROOT/out", ("--output", "is a file"),
         {"out": "mine"}),
    Case("a size between cells", f"{DRAW} --height 36", ("height = 36", "32 or 40")),
    Case("an export over a folder", "export stage2 ROOT/out --force", ("new or empty folder",),
         {"out/mine.txt": "mine"}),
    Case("no LoRA to keep", "export stage2 ROOT/out --lora keep", ("trained no LoRA", "leave it")),
    Case("drawing with a folder", "generate ROOT/mine", ("model_index.json", "qk runs lists"),
         {"mine/a.txt": "mine"}),
    Case("no such run", "generate stage9", ("run = 'stage9'", "known: stage1-")),
    Case("two runs of a name", "runs show stage", ("run = 'stage'", "name one of them")),
    Case("a needed run", "runs rm stage1", ("run", "remove stage2-")),
    Case("removing nothing", ("runs", "rm", ""), ("run = ''", "a run's name")),
    Case("removing where you are", "runs rm .", ("run = 'ROOT'", "the root"),
         {"config.yaml": "trainer: {}"}),
    Case("removing a folder of yours", "runs rm ROOT/mine", ("a run folder right under", "by hand"),
         {"mine/config.yaml": "a: 1", "mine/status.json": "{}"}),
    Case("removing what is no run", "runs rm ROOT/runs/mine", ("10 hexadecimal digits",),
         {"runs/mine/config.yaml": "a: 1", "runs/mine/status.json": "{}"}),
    Case("removing a folder of a run's name", "runs rm me-0123456789", ("with config.yaml and",),
         {"runs/me-0123456789/config.yaml": "a: 1"}),
    Case("removing a link", "runs rm stage2", ("not a link", "elsewhere", "by hand"),
         prepare=linked),
    Case("a part that is not", "runs export stage2 hed ROOT/out", ("part = 'hed'", "'head'")),
    Case("export over a folder", "runs export stage2 head ROOT/out", ("folder", "name another"),
         {"out/mine.txt": "mine"}),
    Case("words missing", "runs export stage2", ("runs export", "qk runs export RUN PART FOLDER")),
    Case("words too many", "runs list stage2", ("runs list", "0 argument(s)")),
    Case("no such action", "runs remove stage2", ("'remove'", "rm")),
    Case("no such suite", "evaluate stage2 avatar", ("suite", "did you mean 'avatars'?")),
    Case("no suite", "evaluate stage2", ("evaluate", "qk evaluate RUN SUITE")),
    Case("prompts misspelt", "evaluate prompt scenes --output ROOT/out",
         ("evaluate = 'prompt'", "did you mean 'prompts'?")),
    Case("no items", "evaluate stage2 avatars --limit 0", ("--limit = 0", "1 or more")),
    Case("no folder of pictures", f"evaluate --images ROOT/gone avatars {SMALL}",
         ("--images", "expected a folder", "<id>.png")),
    Case("an empty folder of pictures", f"evaluate --images ROOT/experiments avatars {SMALL}",
         ("--images", "PNG files", "qk evaluate prompts")),
    Case("pictures of other names", f"evaluate --images ROOT/theirs avatars {SMALL}",
         ("--images", "qk evaluate prompts"), prepare=red, new=CACHE),
    Case("a list for a prompt set", f"evaluate --images ROOT/theirs avatars {SMALL}",
         ("prompt_set.json", "remove it"), {"theirs/prompt_set.json": "[1]"}, red, CACHE),
    Case("a binary prompt set", f"evaluate --images ROOT/theirs avatars {SMALL}",
         ("prompt_set.json", "remove it"), {"theirs/prompt_set.json": b"\xff\xfe"}, red, CACHE),
    Case("a file where verdicts go", f"evaluate --images ROOT/theirs avatars {SMALL}",
         ("theirs/evaluation is a file", "move"), {"theirs/evaluation": "mine"}, red),
    Case("a folder for a sheet", "data show avatars --output ROOT/experiments",
         ("--output", "a file, not a folder")),
    Case("no samples", "data show avatars --per-task 0", ("--per-task = 0", "1 or more")),
    Case("a look at none", "data leakage avatars --limit -3", ("--limit = -3", "1 or more")),
    Case("a run of an unknown user", "runs show ~nosuchuser/x", ("run = '~nosuch", "a known user")),
    Case("a preset of an unknown user", "config ~nosuchuser/x", ("preset", "a known user")),
    Case("too long a preset", f"config {'x' * 300}", ("preset", "255 bytes", "shorter")),
    Case("too long a run", f"runs show {'x' * 300}", ("run = ", "255 bytes", "shorter")),
    Case("an unknown user's pictures", f"evaluate --images ~nosuchuser/x avatars {SMALL}",
         ("--images", "a known user")),
    Case("an unknown user's parent", "fit tiny/stage2 parent=~nosuchuser/x",
         ("parent", "a known user")),
    Case("too long a file", f"config tiny/stage1 --write ROOT/{'x' * 300}.yaml",
         ("--write", "255 bytes")),
    Case("too long a sheet", f"data show avatars --output ROOT/{'x' * 300}.png",
         ("--output", "255 bytes")),
    Case("too long a name", f"fit tiny/stage1 name={'x' * 201}", ("name", "200 bytes")),
    Case("runs is a file", "fit tiny/stage1", ("runs", "is a file", "move the file"),
         prepare=no_runs),
    Case("runs is a file for a sheet", "data show avatars", ("runs", "is a file", "move the file"),
         prepare=no_runs),
]  # fmt: skip
