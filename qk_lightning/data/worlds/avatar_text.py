"""What the avatars world asks for: captions and instructions, exact and in several phrasings.

Every text is a function of attribute words and of a random generator that picks the phrasing.
Lower case, at most 40 words. Not here: questions (avatar_questions.py), pictures (avatar_art.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

Words = Mapping[str, str]

STYLED_HAIR = {
    "long": "long {} hair",
    "short": "short {} hair",
    "bob": "a {} bob",
    "mohawk": "a {} mohawk",
}
LOOKS = {"smiling": "smile", "grinning": "grin", "surprised": "look surprised"}
COLOURED = {"hair_colour": "hair", "skin": "skin", "shirt": "shirt", "background": "background"}

RECONSTRUCTION = (
    "the same picture.",
    "show the same picture again.",
    "repeat the image.",
    "an exact copy of this picture.",
    "draw this person once more, with nothing changed.",
    "keep everything as it is.",
)


def _hair(words: Words) -> str:
    return STYLED_HAIR[words["hair_style"]].format(words["hair_colour"])


def _has(words: Words, name: str, phrase: str, other: str = "") -> str:
    return phrase if words[name] == "yes" else other


def _person_first(w: Words) -> str:
    return (
        f"a {w['expression']} person with {_hair(w)}{_has(w, 'beard', ', a beard')} and "
        f"{w['skin']} skin, wearing a {w['shirt']} shirt{_has(w, 'glasses', ' and glasses')}, "
        f"on a {w['background']} background."
    )


def _background_first(w: Words) -> str:
    return (
        f"on a {w['background']} background: a person with {w['skin']} skin, {_hair(w)}, "
        f"{_has(w, 'beard', 'a beard', 'no beard')} and "
        f"{_has(w, 'glasses', 'glasses', 'no glasses')}, {w['expression']}, "
        f"in a {w['shirt']} shirt."
    )


def _shirt_first(w: Words) -> str:
    return (
        f"portrait of someone in a {w['shirt']} shirt, {w['expression']}, with {w['skin']} skin"
        f"{_has(w, 'glasses', ', glasses')}{_has(w, 'beard', ', a beard')} and {_hair(w)}, "
        f"in front of a {w['background']} background."
    )


def _list(w: Words) -> str:
    return (
        f"{w['skin']} skin, {_hair(w)}, {_has(w, 'glasses', 'glasses', 'no glasses')}, "
        f"{_has(w, 'beard', 'a beard', 'no beard')}, {w['shirt']} shirt, {w['expression']}, "
        f"{w['background']} background."
    )


def _drawing(w: Words) -> str:
    return (
        f"draw a {w['expression']} face{_has(w, 'beard', ' with a beard')}"
        f"{_has(w, 'glasses', ' wearing glasses')}, with {_hair(w)}, {w['skin']} skin and a "
        f"{w['shirt']} shirt; the background is {w['background']}."
    )


def _sentences(w: Words) -> str:
    return (
        f"a person in front of a plain {w['background']} background, with {_hair(w)}. the skin "
        f"is {w['skin']}, the shirt {w['shirt']}. {w['expression']}, "
        f"{_has(w, 'glasses', 'with', 'without')} glasses, "
        f"{_has(w, 'beard', 'with', 'without')} a beard."
    )


CAPTIONS: tuple[Callable[[Words], str], ...] = (
    _person_first,
    _background_first,
    _shirt_first,
    _list,
    _drawing,
    _sentences,
)
CUSTOMISED = (
    "this person, {expression}, in a {shirt} shirt on a {background} background.",
    "on a {background} background: this person in a {shirt} shirt, {expression}.",
    "a new picture of this person: {shirt} shirt, {background} background, {expression}.",
    "show this person {expression}, with a {shirt} shirt, in front of a {background} background.",
    "the same person with a {shirt} shirt; the background is {background}, the face {expression}.",
)
PAIR = (
    "the first person on the left, the second on the right, on a {} background.",
    "on a {} background: the first person on the left and the second person on the right.",
    "both people side by side, the first on the left, the second on the right, {} background.",
    "put the second person to the right of the first; the background is {}.",
    "draw the first person next to the second one, who is on the right. plain {} background.",
)


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of several texts."""
    return options[int(rng.integers(len(options)))]


def caption(words: Words, rng: np.random.Generator) -> str:
    """Describe one person exactly, in one of several phrasings."""
    return CAPTIONS[int(rng.integers(len(CAPTIONS)))](words)


def description(words: Words) -> str:
    """Describe one person exactly, always in the same phrasing."""
    return _background_first(words)


def prompt(task: str, words: Words, changed: Sequence[str], rng: np.random.Generator) -> str:
    """Draw what is asked for.

    Args:
        task: One of TASKS.
        words: The target's attributes.
        changed: Names of the attributes in which the target differs from the source.
        rng: Draws the phrasing.
    """
    if task == "text_to_image":
        return caption(words, rng)
    if task == "reconstruction":
        return pick(RECONSTRUCTION, rng)
    if task == "customised":
        return pick(CUSTOMISED, rng).format(**words)
    if task == "multi_subject":
        return pick(PAIR, rng).format(words["background"])
    (name,) = changed
    return pick(instructions(name, words[name]), rng)


def instructions(name: str, word: str) -> tuple[str, ...]:
    """Return all phrasings of 'set attribute `name` to `word`', told to somebody who sees it.

    Args:
        name: The attribute.
        word: Its new value.

    Returns:
        Between three and five sentences.
    """
    if name in COLOURED:
        noun = COLOURED[name]
        return (
            f"make the {noun} {word}.",
            f"change the {noun} to {word}.",
            f"the same picture, but with {'a ' if noun in ('shirt', 'background') else ''}"
            f"{word} {noun}.",
            f"the {noun} should be {word}.",
        )
    if name in ("beard", "glasses"):
        thing = "a beard" if name == "beard" else "glasses"
        if word == "yes":
            return (f"add {thing}.", f"give the person {thing}.", f"the same person with {thing}.")
        return (f"remove the {name}.", f"no {name}, please.", f"the same person without {thing}.")
    if name == "expression":
        return (
            f"make the person {LOOKS[word]}.",
            f"change the expression to {word}.",
            f"the same person, but {word}.",
        )
    worn = STYLED_HAIR[word].format("").replace("  ", " ").strip()
    return (
        f"give the person {worn}.",
        f"change the hair style to {word}.",
        f"the same person with {worn}.",
    )


def all_texts(words: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Give every caption and instruction at least once, with every word of each attribute.

    Args:
        words: The values of each attribute.
    """
    most = max(map(len, words.values()))
    for turn in range(most):
        values = {name: options[turn % len(options)] for name, options in words.items()}
        yield from (template(values) for template in CAPTIONS)
        yield from (text.format(**values) for text in CUSTOMISED)
        yield from (text.format(values["background"]) for text in PAIR)
    for name, options in words.items():
        yield from (text for word in options for text in instructions(name, word))
    yield from RECONSTRUCTION
