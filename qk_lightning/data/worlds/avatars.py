"""The avatars world: real designers' parametric people with exact captions, edits and identities.

Here: who is drawn, the image table and its samples. Not here: pixels (avatar_art.py), words
(avatar_text.py), scores (evaluation/avatar_reader.py).
Rows: 4 an identity, train identities first: base, edited (one attribute changed), other (the
same person in another state), pair (this identity and the next one side by side).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np

from qk_lightning.data.sample import Sample, Split
from qk_lightning.data.worlds import avatar_art, avatar_people, avatar_tables
from qk_lightning.data.worlds import avatar_questions as questions
from qk_lightning.data.worlds import avatar_text as text
from qk_lightning.data.worlds.asked_question import Question
from qk_lightning.data.worlds.avatar_art import AvatarRenderer
from qk_lightning.data.worlds.avatar_people import BASE, EDITED, NUM_KINDS, OTHER, PAIR, People
from qk_lightning.data.worlds.avatar_tables import STYLES
from qk_lightning.data.worlds.drawn import (
    MAX_SIZE,
    DrawnWorld,
    Layouts,
    check_options,
    sources_digest,
)

_KINDS: dict[str, Layouts] = {
    "text_to_image": ((BASE,), (EDITED,), (OTHER,)),
    "reconstruction": tuple((kind, kind) for kind in (BASE, EDITED, OTHER, PAIR)),
    "transformation": ((BASE, EDITED), (EDITED, BASE)),
    "editing": ((BASE, EDITED), (EDITED, BASE)),
    "customised": ((BASE, OTHER), (OTHER, BASE)),
    "multi_subject": ((BASE, BASE, PAIR),),
}
SIZES = f"a multiple of 4, 16 to {MAX_SIZE}"


class Avatars(DrawnWorld):
    """People of a DiceBear style whose attributes are all known.

    About a tenth of the (hair colour, background) pairs never occurs in train; part of val shows
    them, and `facts["held_out"]["pair"]` says where. No person of val is in train ("identity"):
    a fifth of all looks is drawn in val alone.

    Args:
        size: Pixels of a picture's side, a multiple of 4.
        style: The DiceBear style.
        num_identities: People of the train split; each gives 4 pictures.
        num_val: People of the val split, none of them in train.
        world_seed: Draws the people, what is held out and the phrasings.

    Raises:
        ConfigError: If a number is out of range or a package is missing.
    """

    version = 2
    num_kinds = NUM_KINDS

    def __init__(
        self,
        *,
        size: int = 32,
        style: Literal["micah"] = "micah",
        num_identities: int = 1500,
        num_val: int = 96,
        world_seed: int = 0,
    ) -> None:
        check_options(
            ("size", size, 16 <= size <= MAX_SIZE and size % 4 == 0, SIZES, 32),
            ("style", style, style in STYLES, f"one of {sorted(STYLES)}", "micah"),
            ("num_identities", num_identities, num_identities >= 2, "2 or more", 1500),
            ("num_val", num_val, num_val >= 2, "2 or more", 96),
            ("world_seed", world_seed, world_seed >= 0, "0 or more", 0),
        )
        super().__init__(
            size=size, num_train=num_identities, num_val=num_val, world_seed=world_seed
        )
        self.style = style
        self.renderer = AvatarRenderer(style=style, size=size)

    @cached_property
    def people(self) -> People:
        """Who is in every row."""
        return People(
            attributes=self.renderer.attributes,
            num_train=self.num_train,
            num_val=self.num_val,
            seed=self.world_seed,
        )

    def fingerprint(self) -> str:
        """A short hash of all that decides samples and pixels; file-name safe."""
        population = (self.num_train, self.num_val, self.world_seed)
        code = sources_digest(avatar_art, avatar_people, avatar_tables)
        content = repr((self.version, population, self.renderer.fingerprint(), code))
        return f"avatars-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def draw(self, row: int) -> np.ndarray:
        """Draw image `row`, [3, size, size] uint8."""
        return self.renderer.image(self.people.attributes_of(row))

    # ---- samples

    def kinds(self, task: str, split: Split) -> Layouts:
        """Return the kinds of a task's pictures, the same in both splits."""
        return _KINDS[task]

    def tell(
        self, task: str, images: tuple[int, ...], target: int, rng: np.random.Generator
    ) -> tuple[str, dict[str, Any]]:
        """Draw a sample's prompt and note who is to be drawn and what changes."""
        facts = self._facts(images, target)
        return text.prompt(task, facts["attributes"], facts["changed"], rng), facts

    def _facts(self, images: tuple[int, ...], target: int) -> dict[str, Any]:
        after = self.people.attributes_of(target)
        facts: dict[str, Any] = {"attributes": after, "changed": []}
        if len(images) == 1:
            before = self.people.attributes_of(images[0])
            facts["source_attributes"] = before
            facts["changed"] = [name for name in after if after[name] != before.get(name)]
        is_new = target >= NUM_KINDS * self.num_train
        facts["held_out"] = {"pair": self.people.is_held_out(after), "identity": is_new}
        return facts

    def violations(self, sample: Sample) -> list[str]:
        """Name the kinds of held-out things that a sample shows.

        Args:
            sample: One of this world's samples.

        Returns:
            "pair", "identity", both, or nothing, as for every training sample.
        """
        rows = (*sample.images, sample.target)
        shown = {
            "pair": any(self.people.is_held_out(self.people.attributes_of(row)) for row in rows),
            "identity": any(self.people.is_new(self.people.attributes_of(row)) for row in rows),
        }
        return [kind for kind, is_shown in shown.items() if is_shown]

    # ---- texts for a small VLM

    def captions_for_tokenizer(self, num_drawn: int = 2000) -> Iterator[str]:
        """Give every phrasing and word of this world, then `num_drawn` drawn questions."""
        words = {name: a.words for name, a in self.renderer.attributes.items()}
        yield from text.all_texts(words)
        yield from questions.all_questions(words)
        for index in range(num_drawn):
            _, question, answer = self.qa(index, "train")
            yield f"{question} {answer}"

    def question(self, index: int, split: Split) -> Question:
        """Draw a question; endless and a pure function of the index.

        Of 10, 3 ask for an attribute of a picture of one person, 1 for one of two people, 2 for
        one of a caption, 2 for a description of a picture; 2 are prompts as the head gets them (a
        caption, or a picture and an instruction), answered by what is to be drawn.

        Args:
            index: Any number from 0.
            split: Whose pictures are asked about.
        """
        rng = self.rng("qa", split, index)
        turn = int(rng.integers(10))
        if turn >= 8:
            task = "text_to_image" if turn == 8 else "editing"
            chosen = int(rng.integers(self.num_samples(task, split)))
            return questions.from_sample(self.sample(task, split, chosen))
        first, count = self.items_of(split)
        kind = PAIR if turn == 3 else rng.integers(PAIR)
        row = int(NUM_KINDS * (first + rng.integers(count)) + kind)
        words = self.people.attributes_of(row)
        held_out = ("pair",) if self.people.is_held_out(words) else ()
        if turn >= 6:
            return questions.ask_for_description(row, words, rng, held_out)
        if turn >= 4:
            said = text.caption(words, rng)
            return questions.ask(None, said, words, rng, self._num_words, held_out)
        return questions.ask(row, "", words, rng, self._num_words, held_out)

    @property
    def _num_words(self) -> dict[str, int]:
        return {name: len(a.words) for name, a in self.renderer.attributes.items()}
