"""Who is drawn in each row of the avatars world, and which combinations are held out.

Pure functions of (seed, identity); nothing here draws pixels. Rows: 4 an identity, train first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from qk_lightning.data.worlds.avatar_tables import (
    LEFT,
    RIGHT,
    Attribute,
    Attributes,
    is_pair,
    pair_attributes,
)
from qk_lightning.data.worlds.drawn import next_item

BASE, EDITED, OTHER, PAIR = range(4)
NUM_KINDS = 4
HELD_OUT_SHARE = 0.1
NEW_SHARE = 0.2  # of all that people can look like
# Philox keys beside the identities' own, which count from 0.
_PURPOSE_HELD_OUT = 2**62
_PURPOSE_PAIR = 2**61
_PURPOSE_NEW = 2**60


class People:
    """The attributes of every row.

    A fifth of all looks (combinations of the attributes that stay with a person) is new in val:
    every person of val has one of them, nobody of train does, edited or not. What is held out is
    the same for every seed, so that weights trained in one world have not seen another's.
    Val identities take turns (identity modulo 4): 0 and 2 show no held-out pair of hair colour
    and background; 1 shows one in its base and pair, 3 in its other state.

    Args:
        attributes: The style's attributes.
        num_train: Train identities.
        num_val: Val identities, numbered after them.
        seed: Draws everything.
    """

    def __init__(
        self, *, attributes: Mapping[str, Attribute], num_train: int, num_val: int, seed: int
    ) -> None:
        self.attributes = attributes
        self.num_train = num_train
        self.num_val = num_val
        self.seed = seed
        self.held_out = self._draw_held_out()
        self.new_looks = self._draw_new_looks()
        self._states = [self._draw(identity) for identity in range(num_train + num_val)]
        self._backgrounds = [self._draw_pair(i) for i in range(num_train + num_val)]

    def attributes_of(self, row: int) -> Attributes:
        """Return a word for each attribute of a row (with left_ and right_ for two people)."""
        identity, kind = divmod(row, NUM_KINDS)
        if kind != PAIR:
            return dict(self._states[identity][kind])
        left, right = (self._states[i][BASE] for i in (identity, self.next_identity(identity)))
        return pair_attributes(left, right, self._backgrounds[identity])

    def next_identity(self, identity: int) -> int:
        """Return who stands at the right of an identity: the next one of its split."""
        if identity < self.num_train:
            return next_item(identity, 0, self.num_train)
        return next_item(identity, self.num_train, self.num_val)

    def is_held_out(self, attributes: Mapping[str, str]) -> bool:
        """Tell whether a (hair colour, background) pair is one that train never shows."""
        sides = (LEFT, RIGHT) if is_pair(attributes) else ("",)
        background = attributes["background"]
        return any((attributes[f"{s}hair_colour"], background) in self.held_out for s in sides)

    def is_new(self, attributes: Mapping[str, str]) -> bool:
        """Tell whether a person, or one of two, looks as nobody of train does."""
        sides = (LEFT, RIGHT) if is_pair(attributes) else ("",)
        return any(
            tuple(attributes[side + name] for name in self._stays) in self.new_looks
            for side in sides
        )

    @property
    def _stays(self) -> list[str]:
        return [name for name, attribute in self.attributes.items() if attribute.identity]

    def _draw_held_out(self) -> frozenset[tuple[str, str]]:
        rng = _rng(0, _PURPOSE_HELD_OUT)
        hair, backgrounds = (self.attributes[n].words for n in ("hair_colour", "background"))
        count = round(HELD_OUT_SHARE * len(hair) * len(backgrounds))
        pairs = zip(rng.permutation(hair), rng.permutation(backgrounds), strict=False)
        return frozenset((str(h), str(b)) for h, b in list(pairs)[:count])

    def _draw_new_looks(self) -> frozenset[tuple[str, ...]]:
        """Draw equally many for each hair colour, as val needs some of each."""
        rng, found = _rng(0, _PURPOSE_NEW), []
        looks = list(product(*(self.attributes[name].words for name in self._stays)))
        place = self._stays.index("hair_colour")
        for hair in self.attributes["hair_colour"].words:
            of_hair = [look for look in looks if look[place] == hair]
            count = max(1, round(NEW_SHARE * len(of_hair)))
            found += [of_hair[index] for index in rng.permutation(len(of_hair))[:count]]
        return frozenset(found)

    def _turn(self, identity: int) -> int:
        return 0 if identity < self.num_train else (identity - self.num_train) % 4

    def _backgrounds_seen(self, *hair_colours: str) -> list[str]:
        return [
            word
            for word in self.attributes["background"].words
            if all((hair, word) not in self.held_out for hair in hair_colours)
        ]

    def _partner(self, hair_colour: str) -> str:
        return next(b for h, b in sorted(self.held_out) if h == hair_colour)

    def _draw(self, identity: int) -> tuple[Attributes, Attributes, Attributes]:
        """Return the base, edited and other state of an identity."""
        rng, turn = _rng(self.seed, identity), self._turn(identity)
        base = self._draw_base(identity, rng)
        hair = base["hair_colour"]
        base["background"] = _pick(self._backgrounds_seen(hair), rng)
        if turn == 1:
            base["background"] = self._partner(hair)
        other = self._draw_other(base, rng)
        if turn == 3:
            other["background"] = self._partner(hair)
        return base, self._draw_edit(base, rng), other

    def _draw_base(self, identity: int, rng: np.random.Generator) -> Attributes:
        """Redraw until the look is one of the identity's split."""
        while True:
            base = {name: _pick(a.words, rng) for name, a in self.attributes.items()}
            if self._turn(identity) in (1, 3):
                base["hair_colour"] = _pick(sorted(h for h, _ in self.held_out), rng)
            if self.is_new(base) == (identity >= self.num_train):
                return base

    def _draw_edit(self, base: Attributes, rng: np.random.Generator) -> Attributes:
        """Change one attribute, never to a combination that was not there and is held out."""
        for name in rng.permutation(list(self.attributes)):
            options = [word for word in self.attributes[name].words if word != base[name]]
            candidates = [{**base, str(name): word} for word in options]
            candidates = [c for c in candidates if self.is_new(c) == self.is_new(base)]
            if name in ("hair_colour", "background"):
                candidates = [c for c in candidates if not self.is_held_out(c)]
            if candidates:
                return candidates[int(rng.integers(len(candidates)))]
        raise AssertionError("a state can always be changed")

    def _draw_other(self, base: Attributes, rng: np.random.Generator) -> Attributes:
        """Redraw the state until at least two of its attributes differ from the base."""
        states = [name for name, a in self.attributes.items() if not a.identity]
        while True:
            other = {**base, **{name: _pick(self.attributes[name].words, rng) for name in states}}
            other["background"] = _pick(self._backgrounds_seen(base["hair_colour"]), rng)
            if sum(other[name] != base[name] for name in states) >= 2:
                return other

    def _draw_pair(self, identity: int) -> str:
        """Return the background of an identity and the next one side by side."""
        rng = _rng(self.seed, _PURPOSE_PAIR + identity)
        hair = [
            self._states[i][BASE]["hair_colour"] for i in (identity, self.next_identity(identity))
        ]
        if self._turn(identity) == 1:
            return self._partner(hair[0])
        return _pick(self._backgrounds_seen(*hair), rng)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _rng(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, purpose]))
