"""What is asked of a pipeline: prompts, each with its pictures, their roles and its size.

Not here: reading pictures (data/pictures.py), drawing (query_kontext.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from qk_lightning.config.arguments import check_text
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.data.sample import ROLES, Roles
from qk_lightning.parts.heads.base import DiffusionHead
from qk_lightning.systems.query_kontext import QueryKontext

Picture = Image.Image | Path | str
Size = int | Sequence[int] | None
PAIRS = 'images=[("source", "me.png")], or images=["me.png"], roles=["source"]'


@dataclass(frozen=True)
class Request:
    """One prompt.

    Args:
        prompt: the caption or instruction.
        images: the input pictures.
        roles: `source` or `reference` for each of them.
        height: pixels of the picture to draw.
        width: pixels of the picture to draw.
    """

    prompt: str
    images: tuple[Picture, ...]
    roles: Roles
    height: int
    width: int

    @property
    def layout(self) -> tuple[Roles, int, int]:
        """What requests of one batch share."""
        return self.roles, self.height, self.width

    @property
    def task(self) -> str:
        """The task that the pictures make it."""
        if "source" in self.roles:
            return "editing"
        return ("text_to_image", "customised", "multi_subject")[min(len(self.roles), 2)]


def make_requests(
    prompt: str | Sequence[str],
    sources: Sequence[Picture],
    references: Sequence[Picture],
    images: Sequence[Any],
    roles: Sequence[Any] | None,
    height: Size,
    width: Size,
    size: int,
) -> list[Request]:
    """Read a pipeline's arguments.

    Args:
        prompt: one prompt or several.
        sources: pictures whose pixels are kept, for every prompt; or a single one.
        references: pictures whose identity is kept, for every prompt; or a single one.
        images: pairs of role and picture, or pictures; for several prompts a list of such lists
            gives each its own.
        roles: the roles of `images` where these are pictures alone.
        height: pixels; one number, or one for each prompt; None = `size`.
        width: likewise.
        size: pixels of a side where nothing else is said.

    Returns:
        A request for each prompt, in order.

    Raises:
        ConfigError: with what cannot be understood.
    """
    prompts = [prompt] if isinstance(prompt, str) else _texts(prompt)
    shared = [("source", picture) for picture in _pictures("sources", sources)]
    shared += [("reference", picture) for picture in _pictures("references", references)]
    own = _own_images(images, roles, None if isinstance(prompt, str) else len(prompts))
    sizes = zip(
        _sizes("height", height, len(prompts), size),
        _sizes("width", width, len(prompts), size),
        strict=True,
    )
    requests = []
    for text, extra, (high, wide) in zip(prompts, own, sizes, strict=True):
        pairs = [*shared, *extra]
        pictures = tuple(_picture(picture) for _, picture in pairs)
        requests.append(Request(text, pictures, tuple(role for role, _ in pairs), high, wide))
    return requests


def groups_of(requests: Sequence[Request]) -> Iterator[list[int]]:
    """Group requests by layout; a batch has one.

    Args:
        requests: in the order they were asked.

    Yields:
        Places in `requests`, one list a layout.
    """
    for layout in dict.fromkeys(request.layout for request in requests):
        yield [place for place, request in enumerate(requests) if request.layout == layout]


def check_requests(system: QueryKontext, requests: Sequence[Request]) -> None:
    """See that a system can draw what is asked, before it begins.

    Args:
        system: with its parts built.
        requests: what is asked.

    Raises:
        ConfigError: with all sizes and roles that it cannot.
    """
    problems = []
    for request in requests:
        for key, value in (("height", request.height), ("width", request.width)):
            problems += _size_problems(system, key, value)
        problems += _role_problems(system, request.roles)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _size_problems(system: QueryKontext, key: str, value: int) -> list[Problem]:
    """Say why a side cannot be cut into tokens, or is longer than the head has positions for."""
    stride, multiple = system.autoencoder.stride, int(getattr(system.head, "cell_multiple", 1))
    most, unit = getattr(system.head, "max_cells", None), stride * multiple
    if most is not None and value > most * stride:
        expected = f"{most * stride} or less: the head {system.config.head.name} has positions for "
        return [Problem(key, value, f"{expected}{most} latent cells", str(most * stride))]
    if value % unit:
        why = f"autoencoder's stride {stride} x head's patch {multiple}"
        below, above = value // unit * unit, value // unit * unit + unit
        fix = f"{below} or {above}" if below else str(above)
        return [Problem(key, value, f"a multiple of {unit} ({why})", fix)]
    return []


def _role_problems(system: QueryKontext, roles: Roles) -> list[Problem]:
    """Say which roles a head cannot tell apart or has no room for.

    Pictures that enter as channels have few places; a head that places pictures by shifted
    positions keeps one source apart from its references.
    """
    if roles and not getattr(system.vlm, "reads_images", True):
        expected = f"no picture: the vlm {system.config.vlm.name} reads text alone"
        return [Problem("images", roles, expected, "leave them out")]
    if not system.low_level or not roles:  # the head sees no picture
        return []
    head = system.head
    if isinstance(head, DiffusionHead) and (why := head.image_problem(roles)):
        expected = f"pictures that the head {system.config.head.name} can take ({why})"
        return [Problem("images", roles, expected, "leave some out, or change roles")]
    if roles.count("source") > 1 and getattr(head, "positions", None) == "shifted":
        expected = "one source: shifted positions would put two on the same place"
        return [Problem("images", roles, expected, "give the others the role reference")]
    return []


def _pictures(key: str, given: Any) -> list[Picture]:
    """Read pictures of one role; one alone needs no list."""
    if given is None:
        return []
    if isinstance(given, str | Path | Image.Image):
        return [given]
    if not isinstance(given, Sequence):
        raise ConfigError(Problem(key, repr(given), "a list of pictures", f'{key}=["me.png"]'))
    return list(given)


def _texts(prompts: Any) -> list[str]:
    several = isinstance(prompts, Sequence) and bool(prompts)
    for text in prompts if several else [prompts]:
        check_text("prompt", text, "a person with red hair", may_be_empty=True)
    return list(prompts)


def _own_images(images: Any, roles: Any, count: int | None) -> list[list[tuple[str, Picture]]]:
    """Read `images` and `roles` for each of `count` prompts; None: of a single one."""
    images = () if images is None else images
    if isinstance(images, str | Path | Image.Image) or not isinstance(images, Sequence):
        raise ConfigError(Problem("images", repr(images), "a list of pictures", PAIRS))
    apart = [isinstance(item, list) for item in images]
    if count is None or not any(apart):
        return [_pairs(images, roles)] * (count or 1)
    if not all(apart) or len(images) != count:
        expected = f"a list for each of the {count} prompts"
        fix = "write [] for a prompt without pictures"
        raise ConfigError(Problem("images", len(images), expected, fix))
    if roles is None:
        return [_pairs(item, None) for item in images]
    if len(roles) != count or not all(isinstance(item, list | tuple) for item in roles):
        fix = 'for example roles=[["source"], []]'
        raise ConfigError(Problem("roles", repr(roles), f"a list for each of the {count}", fix))
    return [_pairs(item, own) for item, own in zip(images, roles, strict=True)]


def _pairs(images: Sequence[Any], roles: Sequence[Any] | None) -> list[tuple[str, Picture]]:
    """Return pairs of role and picture."""
    if roles is not None:
        if isinstance(roles, str) or len(roles) != len(images):
            expected = f"a role for each of the {len(images)} pictures"
            raise ConfigError(Problem("roles", roles, expected, PAIRS))
        images = list(zip(roles, images, strict=True))
    for item in images:
        if not isinstance(item, tuple) or len(item) != 2:
            raise ConfigError(Problem("images", repr(item), "a pair of role and picture", PAIRS))
        if item[0] not in ROLES:
            fix = did_you_mean(str(item[0]), ROLES)
            raise ConfigError(Problem("roles", item[0], " or ".join(ROLES), fix))
    return list(images)


def _picture(given: Any) -> Picture:
    """See that something can be a picture, before anything is opened."""
    if not isinstance(given, str | Path | Image.Image):
        fix = "give a path, or what PIL.Image.open returns"
        raise ConfigError(Problem("picture", type(given).__name__, "a file or a PIL image", fix))
    return given


def _sizes(key: str, value: Any, count: int, default: int) -> list[int]:
    """Return pixels for each prompt."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    values = list(value) if several else [value] * count
    if len(values) != count:
        expected = f"one number, or one for each of the {count} prompts"
        raise ConfigError(Problem(key, value, expected, f"give {count}, or one"))
    for item in values:
        if item is not None and (isinstance(item, bool) or not isinstance(item, int) or item < 1):
            raise ConfigError(Problem(key, item, "pixels, 1 or more", f"for example {default}"))
    return [default if item is None else item for item in values]
