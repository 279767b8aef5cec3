"""The scenes world: coloured shapes on plain backgrounds, with all that is asked of them known.

Here: the image table and the samples' addresses. Not here: which item shows what
(scene_items.py), pixels (scene_art.py), words and facts (scene_samples.py), questions
(scene_questions.py), what is held out (scene_split.py), scores (evaluation/scene_reader.py).
Rows: 6 an item, train items first: scene (told as one of GenEval's tasks), source and edited,
subject (marked, to be known again), elsewhere (the same subject), subjects (this item's and the
next one's).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np

from qk_lightning.data.sample import Progress, Sample, Split
from qk_lightning.data.worlds import (
    scene_art,
    scene_draw,
    scene_edits,
    scene_graph,
    scene_items,
    scene_places,
    scene_questions,
    scene_split,
)
from qk_lightning.data.worlds.asked_question import Question
from qk_lightning.data.worlds.drawn import (
    DrawnWorld,
    Layouts,
    check_options,
    sources_digest,
)
from qk_lightning.data.worlds.scene_edits import Edit
from qk_lightning.data.worlds.scene_graph import SHAPES, SMALL_SHAPES, Scene
from qk_lightning.data.worlds.scene_items import (
    EDITED,
    ELSEWHERE,
    NUM_KINDS,
    SCENE,
    SOURCE,
    SUBJECT,
    SUBJECTS,
    Items,
)
from qk_lightning.data.worlds.scene_samples import told
from qk_lightning.data.worlds.scene_split import HeldOut

_DRAWING = (scene_art, scene_draw, scene_edits, scene_graph, scene_items, scene_places, scene_split)
_KINDS: dict[str, Layouts] = {
    "text_to_image": ((SCENE,), (SCENE,), (SOURCE,), (SCENE,), (EDITED,)),
    "reconstruction": tuple((k, k) for k in (SCENE, SOURCE, EDITED, ELSEWHERE, SUBJECTS)),
    "transformation": ((SOURCE, EDITED),),
    "editing": ((SOURCE, EDITED),),
    "customised": ((SUBJECT, ELSEWHERE),),
    "multi_subject": ((SUBJECT, SUBJECT, SUBJECTS),),
}


class Scenes(DrawnWorld):
    """Shapes, colours, counts, relations, sizes, places; edits of them and marked subjects.

    Held out of train: (shape, colour) pairs, (count, shape) pairs, (relation, shape, shape)
    triples, subjects and phrasings (`held_out`). Three of five val items show none of them, the
    others one kind each; `facts["held_out"]` says which.

    Args:
        size: Pixels of a picture's side; at 32 there are five shapes, at 64 eight.
        num_scenes: Items of the train split; each gives 6 pictures.
        num_val: Items of the val split.
        world_seed: Draws the scenes, what is held out and the phrasings.
        free: Objects stand anywhere and differ a little in size. Without, they stand at nine
            points in two sizes, which a small head learns to draw much sooner.

    Raises:
        ConfigError: If a number is out of range.
    """

    version = 2
    num_kinds = NUM_KINDS

    def __init__(
        self,
        *,
        size: Literal[32, 64] = 32,
        num_scenes: int = 2000,
        num_val: int = 240,
        world_seed: int = 0,
        free: bool = False,
    ) -> None:
        check_options(
            ("size", size, size in (32, 64), "32 or 64", 32),
            ("num_scenes", num_scenes, num_scenes >= 2, "2 or more", 2000),
            ("num_val", num_val, num_val >= 2, "2 or more", 240),
            ("world_seed", world_seed, world_seed >= 0, "0 or more", 0),
        )
        super().__init__(size=size, num_train=num_scenes, num_val=num_val, world_seed=world_seed)
        self.free = free
        self.shapes = SMALL_SHAPES if size < 64 else SHAPES
        self.items = Items(self.shapes, num_scenes, num_val, world_seed, free)

    # ---- what a row shows

    @property
    def held_out(self) -> HeldOut:
        """What train never shows."""
        return self.items.held_out

    def rows(self, split: Split) -> range:
        """The rows of a split."""
        first, count = self.items_of(split)
        return range(NUM_KINDS * first, NUM_KINDS * (first + count))

    def scene_of(self, row: int) -> Scene:
        """What row `row` shows."""
        return self.items.scene_of(*divmod(row, NUM_KINDS))

    def edit_of(self, item: int) -> Edit:
        """The change between an item's source and edited picture."""
        return self.items.edit_of(item)

    def tag_of(self, item: int) -> str:
        """As which of TAGS an item's scene is told."""
        return self.items.tag_of(item)

    # ---- the image table

    def fingerprint(self) -> str:
        """A short hash of all that decides samples and pixels; file-name safe."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        population = (self.size, self.num_train, self.num_val, self.world_seed)
        # Some scenes and pictures stand for numpy's generator, which draws them all.
        step = self.num_images // 24 // NUM_KINDS * NUM_KINDS + 1  # so that all kinds take turns
        content = [repr((self.version, population, self.free, sources_digest(*_DRAWING))).encode()]
        for row in range(0, self.num_images, step):
            scene = self.scene_of(row)
            content += [repr(scene).encode(), scene_art.render(scene, self.size).tobytes()]
        return f"scenes-{hashlib.sha256(b''.join(content)).hexdigest()[:12]}"

    def prepare(self, progress: Progress | None = None) -> None:
        """Draw all scenes and rows once, beside and to `table_path`.

        Args:
            progress: Called with (done, total) rows.
        """
        if self._table is None:
            self.items.prepare(self.table_path.with_suffix(".json"))
        super().prepare(progress)

    def draw(self, row: int) -> np.ndarray:
        """Draw image `row`, [3, size, size] uint8."""
        return scene_art.render(self.scene_of(row), self.size)

    # ---- samples

    def kinds(self, task: str, split: Split) -> Layouts:
        """Return the kinds of a task's pictures."""
        # Val captions are of scenes alone: they have a tag, evenly.
        return ((SCENE,),) if (task, split) == ("text_to_image", "val") else _KINDS[task]

    def tell(
        self, task: str, images: tuple[int, ...], target: int, rng: np.random.Generator
    ) -> tuple[str, dict[str, Any]]:
        """Draw a sample's prompt and note what it asks for, see `scene_samples.told`."""
        prompt, facts = told(self.items, task, *divmod(target, NUM_KINDS), rng)
        is_train = target < NUM_KINDS * self.num_train
        assert not (is_train and self.held_out.violations(facts)), (task, target, facts)
        return prompt, facts

    def violations(self, sample: Sample) -> list[str]:
        """Name the kinds of held-out things that a sample shows or says.

        Args:
            sample: One of this world's samples.

        Returns:
            A part of scene_split.KINDS; empty for every training sample.
        """
        return self.held_out.violations(sample.facts)

    # ---- texts for a small VLM

    def captions_for_tokenizer(self, num_drawn: int = 2000) -> Iterator[str]:
        """Give every phrasing and word of this world, then `num_drawn` drawn questions."""
        yield from scene_questions.texts(self, num_drawn)

    def question(self, index: int, split: Split) -> Question:
        """Draw a question with all that scoring needs of it; see `qa`.

        Args:
            index: Any number from 0.
            split: Whose pictures are asked about.
        """
        return scene_questions.question(self, index, split)
