"""Where image tokens stand for the rotary embedding of a head: target, source, references.

Not here: text tokens (a head's own) and the embedding itself. A position is (axis 0, row,
column). h x w cells a picture, row by row; N input pictures.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["shifted", "shared", "axis"]
Size = tuple[int, int]


def target_positions(size: Size) -> Tensor:
    """Positions of the picture that is generated: (0, i, j).

    Args:
        size: h, w in cells.

    Returns:
        [h * w, 3] long.
    """
    height, width = size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)


def source_positions(size: Size) -> Tensor:
    """Positions of a source, whose pixels are kept: (0, -i - 1, -j - 1).

    The paper negates, (-i, -j), and -0 is 0: its first row and column would coincide with the
    target's. The extra -1 keeps the two pictures apart everywhere.

    Args:
        size: h, w in cells.

    Returns:
        [h * w, 3] long, all rows and columns below 0.

    Source: Query-Kontext, arXiv 2509.26641, sec. on shifted RoPE.
    """
    return target_positions(size) * -1 - torch.tensor([0, 1, 1])


def reference_positions(size: Size, number: int, step: Size | None = None) -> Tensor:
    """Positions of the n-th reference, whose identity is kept: (0, i + h * n, j + w * n).

    The paper does not say whether h and w are those of the target or of the reference. Here
    they are the larger of both, so that no two pictures share a position whatever their sizes.

    Args:
        size: h, w of the reference in cells.
        number: n, counted from 1: n = 0 is the target's own place.
        step: h, w of the shift; None takes `size`.

    Returns:
        [h * w, 3] long.

    Source: Query-Kontext, arXiv 2509.26641, sec. on shifted RoPE.
    """
    height, width = step or size
    return target_positions(size) + torch.tensor([0, height * number, width * number])


def instance_positions(size: Size, number: int) -> Tensor:
    """Positions of the n-th input picture where axis 0 counts pictures: (n, i, j).

    Rows and columns stay local, so a cell of a picture of the target's size stands on the
    target's cell in all but axis 0. Pictures are told apart by their number in the order given;
    role plays no part, and sizes that differ do no harm.

    Args:
        size: h, w in cells.
        number: n, counted from 1; the target is 0.

    Returns:
        [h * w, 3] long.

    Source: OmniGen2, arXiv 2506.18871, sec. on Omni-RoPE, whose axis grows by the larger side of
        the picture before; by 1 a picture here, as in FLUX.1 Kontext (arXiv 2506.15742).
    """
    return target_positions(size) + torch.tensor([number, 0, 0])


def image_positions(
    target_size: Size, image_size: Size, roles: tuple[str, ...], scheme: Scheme = "shifted"
) -> Tensor:
    """Positions of all image tokens of a sequence: the target's, then each input picture's.

    Args:
        target_size: h, w of the target in cells.
        image_size: h, w of each input picture in cells.
        roles: `source` or `reference` for each input picture.
        scheme: `shifted` tells roles apart by place, `axis` pictures by number; `shared` puts
            every picture on the target's grid.

    Returns:
        [h * w + N * h' * w', 3] long.

    Raises:
        ValueError: An unknown role, or two sources under `shifted` (they would coincide).
    """
    unknown = sorted(set(roles) - {"source", "reference"})
    if unknown:
        raise ValueError(f"roles: {unknown}, expected source or reference.")
    if scheme == "shifted" and roles.count("source") > 1:
        raise ValueError(
            f"roles: {roles} has {roles.count('source')} sources, which would share positions; "
            "give the others the role reference."
        )
    step = (max(target_size[0], image_size[0]), max(target_size[1], image_size[1]))
    positions = [target_positions(target_size)]
    for place, role in enumerate(roles):
        if scheme == "shared":
            positions.append(target_positions(image_size))
        elif scheme == "axis":
            positions.append(instance_positions(image_size, place + 1))
        elif role == "source":
            positions.append(source_positions(image_size))
        else:
            number = roles[: place + 1].count("reference")
            positions.append(reference_positions(image_size, number, step))
    return torch.cat(positions)


def centred_positions(
    target_size: Size, image_size: Size, roles: tuple[str, ...], scheme: Scheme = "shifted"
) -> Tensor:
    """As `image_positions`, for heads whose origin is the middle of a picture, not its corner.

    Rows run from -ceil(h / 2) to floor(h / 2) - 1, columns likewise. Under `axis` each picture
    has its own middle; otherwise all are moved by the target's, so that the distances between
    pictures, which are all that a rotary embedding sees, are those of `image_positions`.

    Args:
        target_size: h, w of the target in cells.
        image_size: h, w of each input picture in cells.
        roles: `source` or `reference` for each input picture.
        scheme: As in `image_positions`.

    Returns:
        [h * w + N * h' * w', 3] long.

    Raises:
        ValueError: As `image_positions`.
    """
    positions = image_positions(target_size, image_size, roles, scheme)
    area = target_size[0] * target_size[1]
    own = image_size if scheme == "axis" else target_size
    return torch.cat([positions[:area] - _middle(target_size), positions[area:] - _middle(own)])


def _middle(size: Size) -> Tensor:
    return torch.tensor([0, (size[0] + 1) // 2, (size[1] + 1) // 2])
