"""Wrong presets, overrides and sweep files."""

from __future__ import annotations

from malformed_case import Case

BAD = "experiments/bad.yaml"
SWEEP = "experiments/sweeps/bad.yaml"
ON_TINY = "defaults: [tiny/stage1]\n"
GOOD_SWEEP = "preset: tiny/stage1\naxes: {queries.num_queries: [1, 2]}\n"


def override(name: str, text: str, *says: str, preset: str = "tiny/stage1") -> Case:
    """One wrong override of a right preset."""
    return Case(name, ("fit", preset, text), says)


def preset(name: str, text: str | bytes, *says: str) -> Case:
    """One wrong preset."""
    return Case(name, "fit bad", says, {BAD: text})


def sweep(name: str, text: str | bytes, *says: str) -> Case:
    """One wrong sweep file; what is no YAML is the whole file, else it goes on a right one."""
    return Case(name, "sweep sweeps/bad --plan", says, {SWEEP: text})


OVERRIDES = [
    override("unknown section", "optimiser.lr=1", "optimiser", "did you mean 'optimizer'?"),
    override("unknown option", "trainer.max_stepz=4", "trainer.max_stepz", "'max_steps'"),
    override("option of a part", "head.num_layrs=1", "head.num_layrs", "'num_layers'"),
    override("option of a world", "data.world.num_vals=3", "data.world.num_vals", "'num_val'"),
    override("misspelt part", "connector=enc_porj", "connector.name", "'enc_proj'"),
    Case("no encoder block", "fit tiny/stage1 connector=enc_proj connector.num_layers=0",
         ("connector = 'enc_proj'", "num_layers: 0, expected 1 or more")),
    override("text for a number", "trainer.max_steps=many", "trainer.max_steps", "int"),
    override("a truth for a number", "trainer.max_steps=true", "trainer.max_steps", "int"),
    override("a list for a section", "data.tasks=[editing]", "data.tasks", "dict[str, float]"),
    override("a number for a section", "trainer=5", "trainer", "write `trainer.<option>=...`"),
    override("a negative number", "optimizer.warmup_steps=-1", "warmup_steps", "0 or more"),
    override("nan", "optimizer.weight_decay=nan", "optimizer.weight_decay", "0 or more"),
    override("an infinite number", "optimizer.lr=inf", "optimizer.lr = inf", "finite"),
    override("betas of 1 and more", "optimizer.betas=[0.9,1.5]", "optimizer.betas", "[0.9, 0.95]"),
    override("one beta", "optimizer.betas=[0.9]", "optimizer.betas", "[0.9, 0.95]"),
    override("a clip below 0", "optimizer.gradient_clip=-1", "gradient_clip", "0 or more"),
    override("a share above 1", "optimizer.min_lr_ratio=7", "optimizer.min_lr_ratio", "0 to 1"),
    override("guidance of nan", "sampling.guidance_scale=nan", "guidance_scale", "a finite number"),
    override("no task on", "data.tasks={text_to_image: 0, reconstruction: 0}", "data.tasks", "=1"),
    override("weight of nan", "data.tasks.text_to_image=nan", "data.tasks.text_to_image", "0"),
    override("no queries", "queries.num_queries=0", "num_queries", "system.context=text"),
    override("unequal groups", "data.groups_per_step=3", "global_batch_size", "multiple of 3"),
    override("uneven micro-batch", "trainer.micro_batch_size=3", "micro_batch_size", "=1"),
    override("a picture no codec cuts", "data.world.size=36", "data.world.size", "size=32"),
    override("a picture of a wall", "data.world.size=100000", "data.world.size", "16 to 4096"),
    override("misspelt objective", "objective=flow", "objective.name", "expected an objective"),
    override("a part of numbers for a name", "objective=5", "objective", "an objective by name"),
    override("rank 0", "trainable.vlm.lora.rank=0", "trainable.vlm.lora.rank", "1 or more"),
    override("lora on nothing", "trainable.vlm.lora.targets=[no]", "lora.targets", "q_proj"),
    override("trainable of no part", "trainable.hed=full", "trainable.hed", "'head'"),
    override("from_parent of no part", "from_parent.vln=new", "from_parent.vln", "'vlm'",
             preset="tiny/stage2"),
    override("unlike its parent", "stage1.connector=enc_proj", "connector", "new",
             preset="tiny/stage2"),
    override("a parent that is not", "parent=runs/gone", "parent = 'runs/gone'", "fix"),
    override("a stage that is not", "stage7.seed=1", "stage7.seed=1", "stage1"),
    override("no equals sign", "max_steps", "max_steps", "trainer.max_steps=20"),
    override("no key", "=5", "=5", "trainer.max_steps=20"),
    override("no value", "trainer.max_steps=", "trainer.max_steps", "int"),
    override("a value that is no YAML", "seed=[1", "seed", "quote it"),
    override("a reference to nothing", "seed=${no.where}", "no.where", "refer to a key"),
    override("a required option", "data.world={name: jsonl}", "data.world.path", "set `data"),
    override("a fraction of a seed", "seed=1.5", "seed = 1.5", "int"),
    override("an empty key", "trainer..max_steps=3", "trainer..max_steps", "trainer.max_steps"),
    override("worlds of no mixture", "data.world.worlds.avatars.weight=1", "worlds", "fix"),
    override("no seed", "seed=null", "seed", "seed of initial weights"),
    override("no name", "name=null", "name", "choose another name"),
    override("a rank alone", "trainable.vlm={lora: 16}", "trainable.vlm.lora = 16", "<option>=..."),
    override("nothing that learns", "trainable={}", "trainable = {}", "trainable.head=frozen"),
    override("no trainer", "trainer=null", "`trainer:` is empty", "write its options"),
    override("time that runs back", "reference_seconds=-3", "reference_seconds", "0 or more"),
    override("more steps than a float", f"trainer.max_steps=1{'0' * 400}", "trainer.max_steps",
             "below 10^100"),
    override("a number of 5,000 digits", f"trainer.max_steps={'9' * 5000}", "max_steps", "shorter"),
    override("a rate of 400 digits", f"optimizer.lr=1{'0' * 400}", "optimizer.lr", "shorter"),
    override("an endless factor", "optimizer.lr_scale={head: .inf}", "lr_scale.head", "a finite"),
    override("a mixture's weight", "data.world={name: mixture, worlds: {avatars: {weight: -1}}}",
             "data.world.worlds.avatars.weight", "0 = off"),
]  # fmt: skip

PRESETS = [
    preset("a cycle of defaults", "defaults: [bad]\n", "defaults = 'experiments/bad.yaml'", "take"),
    preset("defaults that are not", "defaults: [tiny/bse]\n", "tiny/bse", "'tiny/base'"),
    preset("defaults of numbers", "defaults: {a: 1}\n", "defaults", "[laptop/base"),
    preset("an open bracket", "seed: 1\ntrainer: {max_steps: 3\n", "bad.yaml:3", "mend"),
    preset("a tab", "trainer:\n\tmax_steps: 3\n", "experiments/bad.yaml:2", "by spaces"),
    preset("a key twice", ON_TINY + "seed: 1\nseed: 2\n", "experiments/bad.yaml:3", "seed"),
    preset("an empty file", "", "system", "write `system: {name: ...}`"),
    preset("a list", "- 1\n- 2\n", "experiments/bad.yaml", "key: value"),
    preset("a binary file", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "experiments/bad.yaml", "YAML"),
    preset("a python tag", "seed: !!python/object/apply:os.mkdir [pwned]\n", "bad.yaml:1", "mend"),
    preset("a part of numbers", ON_TINY + "head: 5\n", "head = 5", "experiments/bad.yaml:2"),
    preset("a key that is a number", ON_TINY + "7: 1\n", "7 = 1", "known"),
    preset("a date for a name", ON_TINY + "name: 2024-01-01\n", "name", "bad.yaml:2"),
    preset("an anchor in itself", "seed: &a [*a]\n", "experiments/bad.yaml:1", "mend"),
    preset("an empty section", ON_TINY + "trainer:\n", "trainer (experiments/bad.yaml:2)", "drop"),
    preset("digits without end", ON_TINY + f"seed: {'9' * 5000}\n", "bad.yaml", "shorter"),
    preset("a seed of 400 digits", ON_TINY + f"seed: 1{'0' * 400}\n", "seed (exp", "shorter"),
    preset("a number for a part", ON_TINY + "trainable: {5: full}\n", "trainable.5", "known: "),
    preset("a cycle of parents", ON_TINY + "parent: bad\n", "parent = 'bad'", "name another"),
]  # fmt: skip

SWEEPS = [
    Case("a sweep to fit", "fit sweeps/bad", ("a sweep", "qk sweep sweeps/bad"),
         {SWEEP: GOOD_SWEEP}),
    Case("a preset to sweep", "sweep tiny/stage1", ("a preset", "qk fit tiny/stage1")),
    Case("a report of nothing", "report num_querys", ("sweep = ", "'num_queries'")),
    sweep("no preset", "axes: {seed: [1]}\n", "preset", "write `preset: ...`"),
    sweep("axes of a list", "preset: tiny/stage1\naxes: [1]\n", "axes = [1]", "{key: [1, 2]}"),
    sweep("an empty axis", "preset: tiny/stage1\naxes: {seed: []}\n", "axes.seed", "[1, 2]"),
    sweep("a value twice", "preset: tiny/stage1\naxes: {seed: [1, 1]}\n", "axes.seed", "take"),
    sweep("a goal that is none", GOOD_SWEEP + "metrics: {val/loss: down}\n", "val/loss", "min or"),
    sweep("a baseline off its axis", GOOD_SWEEP + "baseline: {queries.num_queries: 9}\n",
          "baseline.queries.num_queries = 9", "choose one"),
    sweep("a baseline of no axis", GOOD_SWEEP + "baseline: {queries.num_querys: 1}\n",
          "baseline.queries.num_querys", "did you mean 'queries.num_queries'?"),
    sweep("a control twice", GOOD_SWEEP + "controls: [{name: a}, {name: a}]\n", "controls", "ren"),
    sweep("a control of a text", GOOD_SWEEP + "controls: [a]\n", "controls[0]", "overrides: ["),
    sweep("no seeds", GOOD_SWEEP + "seeds: []\n", "seeds = []", "[0, 1, 2]"),
    sweep("seeds of words", GOOD_SWEEP + "seeds: [one]\n", "seeds = ['one']", "[0, 1, 2]"),
    sweep("no slots", GOOD_SWEEP + "slots: 0\n", "slots = 0", "slots: 1"),
    sweep("an axis that is no option", "preset: tiny/stage1\naxes: {queries.num: [1]}\n",
          "queries.num = 1", "known: init_std, layer, num_queries"),
    sweep("an open bracket in a sweep", "preset: a\naxes: {a: [1\n", "bad.yaml:3", "mend"),
    sweep("a binary sweep", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "bad.yaml", "text in UTF-8"),
    sweep("a list for a sweep", "- 1\n", "bad.yaml", "`key: value` lines"),
    sweep("an axis of seeds", "preset: tiny/stage1\naxes: {seed: [1, 2]}\n", "axes.seed",
          "write `seeds: [1, 2]`"),
    sweep("rows of the same runs", "preset: tiny/stage1\naxes: {trainer.log_every: [1, 2]}\n",
          "'log_every=1' and 'log_every=2' are the same runs", "take one out"),
    sweep("a seed among the overrides", GOOD_SWEEP + "overrides: [all.seed=1]\n", "all.seed=1",
          "change `seeds:`"),
    sweep("a name without end", GOOD_SWEEP + f"name: {'n' * 201}\n", "name", "shorten it"),
    sweep("a metric of no suite", GOOD_SWEEP + "metrics: {eval/avatar/mrr: max}\n",
          "metrics.eval/avatar/mrr", "did you mean 'eval/avatars'?"),
    sweep("a number for a metric", GOOD_SWEEP + "metrics: {5: min}\n", "metrics.5", "`val/loss"),
    Case("an axis among the overrides", "sweep sweeps/bad queries.num_queries=5 --plan",
         ("queries.num_queries=5", "change `axes:`"), {SWEEP: GOOD_SWEEP}),
    Case("a seed for a sweep", "sweep sweeps/bad --plan seed=5",
         ("seed=5", "change `seeds:`"), {SWEEP: GOOD_SWEEP}),
    sweep("an empty sweep", "", "preset", "write `preset: ...`"),
]  # fmt: skip

CASES = [*OVERRIDES, *PRESETS, *SWEEPS]
