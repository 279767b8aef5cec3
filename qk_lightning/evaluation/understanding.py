"""What a VLM understands: held-out questions about held-out pictures, beside what guessing gives.

Short answers count if they are right word for word. Descriptions are scored by their content
words in order, by whole phrases (an object with size, colour, shape and place) and as a whole.
Majority = always the answer that is most frequent in train for that kind and topic (for
descriptions the one nearest to all others); chance = one of the topic's answers at random.
Not here: the VLM (parts/vlms), the questions (data/worlds). Torch is not imported.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import fmean

from qk_lightning.data.sample import Split, World
from qk_lightning.data.worlds.asked_question import LONG, Question

PREFIX = "eval/understanding"
NUM_TRAIN = 2000  # train questions of a world that the majority is taken of
_NUM_CANDIDATES = 40  # train descriptions among which the majority is sought
_FUNCTION_WORDS = frozenset(
    ["a", "an", "and", "at", "background", "in", "on", "person", "the", "with"]
)
# Answers questions about one world; rows are that world's.
Answerer = Callable[[World, Sequence[Question]], Sequence[str]]


@dataclass(frozen=True)
class Scored:
    """A question, what was answered, and how right that and the majority's answer are.

    Args:
        question: What was asked.
        given: What was answered.
        scores: By measure, in 0 to 1: "accuracy" of a short answer; "words", "phrases" and
            "exact" of a description.
        majority: The same of the majority's answer.
    """

    question: Question
    given: str
    scores: Mapping[str, float]
    majority: Mapping[str, float]


def score_understanding(
    answer: Answerer, world: World, num_questions: int, split: Split = "val"
) -> dict[str, float]:
    """Ask a VLM the first questions of a split and score its answers.

    Args:
        answer: Gives one answer to each question about one world.
        world: A world with questions, or a mixture of them.
        num_questions: Questions of each world.
        split: Whose pictures are asked about.

    Returns:
        `eval/understanding/<world>/<kind>/<measure>` with `/<measure>_majority` and, for short
        answers, `/chance`; `<kind>/by_topic/<topic>` and `<kind>/held_out/<what>` (of questions
        about what train never shows) of the first measure alone. `<world>` is its label in a
        mixture, else its class's name in lower case.
    """
    scores: dict[str, float] = {}
    for label, part in worlds_of(world).items():
        scored = ask_all(answer, part, num_questions, split)
        scores |= {f"{PREFIX}/{label}/{key}": value for key, value in summarise(scored).items()}
    return scores


def worlds_of(world: World) -> dict[str, World]:
    """Return the worlds of a mixture that can be asked, by label; a single world as it is."""
    parts = getattr(world, "worlds", None) or {type(world).__name__.lower(): world}
    return {label: part for label, part in parts.items() if hasattr(part, "question")}


def ask_all(answer: Answerer, world: World, num_questions: int, split: Split) -> list[Scored]:
    """Ask the first questions of a split, and score a VLM and the majority.

    Args:
        answer: As in `score_understanding`.
        world: A single world with questions.
        num_questions: How many.
        split: Whose pictures are asked about.
    """
    questions = [world.question(index, split) for index in range(num_questions)]  # type: ignore[attr-defined]
    usual = majority_answers(world.question(i, "train") for i in range(NUM_TRAIN))  # type: ignore[attr-defined]
    return [
        Scored(
            question,
            given,
            score(question, given),
            score(question, usual.get((question.kind, question.topic), "")),
        )
        for question, given in zip(questions, answer(world, questions), strict=True)
    ]


def score(question: Question, given: str) -> dict[str, float]:
    """Score one answer.

    Args:
        question: What was asked.
        given: What was answered.

    Returns:
        "accuracy" of a short answer. Of a description "words" (F1 of the content words that
        right and given answer have in common, in order), "phrases" (F1 of whole phrases) and
        "exact".
    """
    right, given = question.answer.strip(), given.strip()
    if question.kind not in LONG:
        return {"accuracy": float(given == right)}
    ours, theirs = (content_words(text) for text in (right, given))
    matches = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    common = sum(block.size for block in matches)
    our_phrases, their_phrases = (Counter(phrases(text)) for text in (right, given))
    shared = sum((our_phrases & their_phrases).values())
    return {
        "words": _f1(common, len(ours), len(theirs)),
        "phrases": _f1(shared, our_phrases.total(), their_phrases.total()),
        "exact": float(given == right),
    }


def content_words(text: str) -> list[str]:
    """Return the words that say something of a picture, in order."""
    return [word for word in re.findall(r"[a-z]+", text) if word not in _FUNCTION_WORDS]


def phrases(text: str) -> list[str]:
    """Return what stands between commas, colons and full stops: an object, the background."""
    return [part.strip() for part in re.split(r"[,:.]", text) if part.strip()]


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if ours + theirs else 1.0


def majority_answers(questions: Iterable[Question]) -> dict[tuple[str, str], str]:
    """Find what somebody would always answer who has learned how often answers are.

    Args:
        questions: Of the train split.

    Returns:
        By kind and topic, the most frequent answer; of descriptions the one whose words come
        nearest to all others.
    """
    answers: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in questions:
        answers[question.kind, question.topic].append(question)
    return {
        key: _nearest(asked) if key[0] in LONG else _most_frequent(asked)
        for key, asked in answers.items()
    }


def _most_frequent(asked: Sequence[Question]) -> str:
    counts = Counter(question.answer for question in asked)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _nearest(asked: Sequence[Question]) -> str:
    some = asked[:_NUM_CANDIDATES]
    return max(some, key=lambda one: sum(score(q, one.answer)["words"] for q in some)).answer


def summarise(scored: Sequence[Scored]) -> dict[str, float]:
    """Average scores by kind, and within a kind by topic and by what is held out.

    Args:
        scored: Of one world.

    Returns:
        See `score_understanding`, without the world's label.
    """
    by_kind: dict[str, list[Scored]] = defaultdict(list)
    for item in scored:
        by_kind[item.question.kind].append(item)
    means: dict[str, float] = {}
    for kind, items in by_kind.items():
        for measure in items[0].scores:
            means[f"{kind}/{measure}"] = fmean(item.scores[measure] for item in items)
            means[f"{kind}/{measure}_majority"] = fmean(item.majority[measure] for item in items)
        first = next(iter(items[0].scores))
        guessed = [item.question.num_answers for item in items if item.question.num_answers]
        if first == "accuracy" and len(guessed) == len(items):
            means[f"{kind}/chance"] = fmean(1 / number for number in guessed)
        groups: dict[str, list[float]] = defaultdict(list)
        for item in items:
            groups[f"by_topic/{item.question.topic}"].append(item.scores[first])
            for what in item.question.held_out or ("nothing",):
                groups[f"held_out/{what}"].append(item.scores[first])
        means |= {f"{kind}/{name}": fmean(values) for name, values in groups.items()}
    return means
