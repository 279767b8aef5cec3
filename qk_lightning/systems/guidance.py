"""Classifier-free guidance: which conditions the head is asked under, and with what weights.

Not here: what a batch without images looks like (dropout.py), and the sampling loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qk_lightning.data.sample import Batch


def guidance_terms(
    guidance: str,
    batch: Batch,
    text_scale: float,
    image_scale: float,
    without_images: Callable[[Batch], Batch],
) -> list[tuple[float, Batch]]:
    """List what is asked; the predictions are summed with the weights, which add up to 1.

    Text guidance moves away from the empty prompt, image guidance away from no images:
    v = v(0,0) + g_i (v(0,i) - v(0,0)) + g_t (v(t,i) - v(0,i)); a scale of 1 costs nothing. The
    empty prompt is read by the VLM like any other, with its template and its queries.

    Args:
        guidance: text_and_image, text (g_i = 1) or none (both 1).
        batch: prompts, and images with roles.
        text_scale: g_t.
        image_scale: g_i, 1 in a batch without images.
        without_images: Turns a batch into what the head saw in training where images were
            dropped.

    Returns:
        Weight and batch of each term; none with the weight 0.

    Source: Ho & Salimans, arXiv 2207.12598; Brooks et al., arXiv 2211.09800, sec. 3.2.1.
    """
    if guidance != "text_and_image" or batch.images is None:
        image_scale = 1.0
    if guidance == "none":
        text_scale = 1.0
    unprompted = replace(batch, prompts=[""] * batch.batch_size)
    terms = [(text_scale, batch), (image_scale - text_scale, unprompted)]
    if image_scale != 1.0:
        terms.append((1.0 - image_scale, without_images(unprompted)))
    return [(weight, item) for weight, item in terms if weight]
