"""The tables of the avatars world: which words there are and what the renderer makes of them.

To add a style, add an ArtStyle to STYLES and its name to the world's `style` option. Not here:
drawing (avatar_art.py), who is drawn (avatar_people.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEFT, RIGHT = "left_", "right_"

Attributes = dict[str, str]


@dataclass(frozen=True)
class Attribute:
    """One thing that is said and seen: a shape (hair style) or a paint (hair colour).

    Args:
        options: For each word of a shape its renderer options, of a paint its colour.
        identity: True if it stays with a person (hair), False for a state (shirt).
        paints: Renderer options that take a paint's colour; none for the plane behind a figure.
    """

    options: Mapping[str, Any]
    identity: bool
    paints: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The values, in a fixed order."""
        return tuple(self.options)

    @property
    def is_paint(self) -> bool:
        """True if the words name colours."""
        return isinstance(self.options[self.words[0]], str)


@dataclass(frozen=True)
class ArtStyle:
    """A DiceBear style: what varies and what is held fixed.

    Args:
        file: Name of the style's JSON in dicebear-styles.
        attributes: What varies, by name; "background" is the plane behind the figure.
        fixed: Renderer options that never change.
    """

    file: str
    attributes: Mapping[str, Attribute]
    fixed: Mapping[str, Any]


COLOURS = {
    "red": "#f0524f",
    "blue": "#45a0f5",
    "green": "#4db860",
    "yellow": "#ffe14d",
    "white": "#ffffff",
    "purple": "#a45fcf",
}
HAIR_COLOURS = {
    "black": "#1d1d1f",
    "brown": "#5c3417",
    "blond": "#eebc50",
    "red": "#c8321a",
    "grey": "#b4b8c2",
    "blue": "#2444c8",
}
SKINS = {"light": "#ffdcc5", "tan": "#dfa46c", "dark": "#95603a"}
STROKES = ("mouth", "glasses", "eyes", "eyebrows")

MICAH = ArtStyle(
    file="micah.json",
    attributes={
        "hair_style": Attribute(
            {
                "long": {"hairVariant": "full"},
                "short": {"hairVariant": "fonze"},
                "bob": {"hairVariant": "pixie"},
                "mohawk": {"hairVariant": "mrT"},
            },
            identity=True,
        ),
        "hair_colour": Attribute(
            HAIR_COLOURS, identity=True, paints=("hairColor", "facialHairColor")
        ),
        "skin": Attribute(SKINS, identity=True, paints=("baseColor",)),
        "beard": Attribute(
            {"no": {"facialHairProbability": 0}, "yes": {"facialHairProbability": 100}},
            identity=True,
        ),
        "glasses": Attribute(
            {"no": {"glassesProbability": 0}, "yes": {"glassesProbability": 100}},
            identity=True,
        ),
        "expression": Attribute(
            {
                "smiling": {"mouthVariant": "smile"},
                "grinning": {"mouthVariant": "nervous"},
                "surprised": {"mouthVariant": "surprised"},
            },
            identity=False,
        ),
        "shirt": Attribute(COLOURS, identity=False, paints=("shirtColor",)),
        "background": Attribute(COLOURS, identity=False),
    },
    fixed={
        "seed": "qk",
        "idRandomization": False,
        "hairProbability": 100,
        "earringsProbability": 0,
        "facialHairVariant": "beard",
        "glassesVariant": "round",
        "eyesVariant": "eyes",
        "eyebrowsVariant": "up",
        "noseVariant": "curve",
        "earsVariant": "attached",
        "clothesVariant": "open",
        **{f"{part}Color": ["#000000"] for part in STROKES},
    },
)
STYLES: dict[str, ArtStyle] = {"micah": MICAH}


def is_pair(attributes: Mapping[str, str]) -> bool:
    """Tell the attributes of two people side by side from those of one."""
    return any(name.startswith(LEFT) for name in attributes)


def pair_attributes(
    left: Mapping[str, str], right: Mapping[str, str], background: str
) -> Attributes:
    """Return the attributes of two people side by side: left_*, right_* and background."""
    pair = {
        f"{side}{name}": word
        for side, person in ((LEFT, left), (RIGHT, right))
        for name, word in person.items()
        if name != "background"
    }
    return {**pair, "background": background}


def base_name(name: str) -> str:
    """Return the attribute without its side: left_shirt -> shirt."""
    return name.removeprefix(LEFT).removeprefix(RIGHT)
