"""Where image tokens stand for the rotary embedding of a head: target, source, references.

Not here: text tokens; they all stand at (0, 0, 0). A position is (axis 0, row, column); axis 0
stays 0. h x w cells a picture, row by row; N input pictures.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["shifted", "shared"]
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


def image_positions(
    target_size: Size, image_size: Size, roles: tuple[str, ...], scheme: Scheme = "shifted"
) -> Tensor:
    """Positions of all image tokens of a sequence: the target's, then each input picture's.

    Args:
        target_size: h, w of the target in cells.
        image_size: h, w of each input picture in cells.
        roles: `source` or `reference` for each input picture.
        scheme: `shifted` tells roles apart; `shared` puts every picture on the target's grid.

    Returns:
        [h * w + N * h' * w', 3] long.

    Raises:
        ValueError: An unknown role, or two sources under `shifted` (they would coincide).
    """
    unknown = sorted(set(roles) - {"source", "reference"})
    if unknown:
        raise ValueError(f"roles: {unknown}, expected source or reference.")
    if scheme == "shared":
        grids = [target_positions(image_size)] * len(roles)
        return torch.cat([target_positions(target_size), *grids])
    if roles.count("source") > 1:
        raise ValueError(
            f"roles: {roles} has {roles.count('source')} sources, which would share positions; "
            "give the others the role reference."
        )
    step = (max(target_size[0], image_size[0]), max(target_size[1], image_size[1]))
    positions = [target_positions(target_size)]
    for place, role in enumerate(roles):
        if role == "source":
            positions.append(source_positions(image_size))
        else:
            number = roles[: place + 1].count("reference")
            positions.append(reference_positions(image_size, number, step))
    return torch.cat(positions)
