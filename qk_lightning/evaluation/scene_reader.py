"""The reader of the scenes world: pictures and facts in, verdicts out.

Reading is in scene_reading.py, judging in scene_verdicts.py, identities in subject_gallery.py.
B pictures of 3 x H x W; places are in picture sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qk_lightning.data.worlds.scene_graph import SHAPES, SMALL_SHAPES, Scene
from qk_lightning.evaluation import scene_verdicts as verdicts
from qk_lightning.evaluation.scene_reading import SceneReading, read_scene
from qk_lightning.evaluation.subject_gallery import Identity, gallery_rank
from qk_lightning.evaluation.verdict import Verdict, as_uint8

SUBJECT_TASKS = ("customised", "multi_subject")
PER_PROCESS = 64  # pictures that make another process worth its start


class SceneReader:
    """Reads scenes by laying outlines over what stands out from the background.

    Which verdict an item gets follows from its facts: edits have a "source_scene"; the tag
    "reconstruction" asks for the whole scene again; marked objects are subjects, told from a
    gallery; all else is a caption. The parts of each are listed in scene_verdicts.py.

    Known limits: two objects of one colour that touch are read as one of an unknown shape unless
    a place between them is paler, and a mark of nearly the background's colour is read as a hole.
    Shapes are known upright and whole; what is below 0.8 % of the picture is no object; the
    background is the nearest of BACKGROUNDS, however far.

    Args:
        size: Pixels of a picture's side.
        shapes: The shapes there may be; by default those of the scenes world at this size.
        gallery: N subjects that a drawn subject is told from.
    """

    version = "scenes-2"

    def __init__(
        self,
        size: int,
        shapes: Sequence[str] | None = None,
        gallery: Sequence[Identity] = (),
    ) -> None:
        self.size = size
        self.shapes = tuple(shapes or (SMALL_SHAPES if size < 64 else SHAPES))
        self.gallery = tuple(gallery)

    def read(self, image: np.ndarray) -> SceneReading:
        """Read one picture.

        Args:
            image: [3, H, W], float in [-1, 1] or uint8.
        """
        return read_scene(as_uint8(image), self.shapes)

    def verdicts(
        self, images: Any, items: Sequence[Mapping[str, Any]], sources: Any = None
    ) -> list[Verdict]:
        """Hold each picture against its facts.

        Args:
            images: [B, 3, H, W], float in [-1, 1] or uint8.
            items: `Sample.facts` of each picture.
            sources: No effect: what an edit must leave alone is measured in untouched.py.

        Raises:
            ValueError: If pictures and facts differ in number, or a picture in size.
        """
        pictures = as_uint8(images)
        expected = (len(items), 3, self.size, self.size)
        if pictures.shape != expected:
            raise ValueError(
                f"images have shape {pictures.shape}, expected {expected}: one picture of the "
                "world's size for each of the facts"
            )
        readings = self._read_all(pictures)
        return [self._verdict(*one) for one in zip(pictures, readings, items, strict=True)]

    def _read_all(self, pictures: np.ndarray) -> list[SceneReading]:
        """Read pictures; many of them on all cores, as a smear costs a tenth of a second."""
        from joblib import Parallel, cpu_count, delayed

        jobs = min(cpu_count(), len(pictures) // PER_PROCESS)
        if jobs < 2:
            return [read_scene(picture, self.shapes) for picture in pictures]
        return Parallel(n_jobs=jobs)(
            delayed(read_scene)(picture, self.shapes) for picture in pictures
        )

    def _verdict(
        self, picture: np.ndarray, reading: SceneReading, facts: Mapping[str, Any]
    ) -> Verdict:
        if "source_scene" in facts:
            return verdicts.edit_verdict(reading, facts)
        if facts.get("tag") == "reconstruction":
            return verdicts.copy_verdict(reading, facts)
        if facts.get("tag") in SUBJECT_TASKS:
            return verdicts.subject_verdict(reading, facts, self._ranks(picture, reading, facts))
        return verdicts.caption_verdict(reading, facts)

    def _ranks(
        self, picture: np.ndarray, reading: SceneReading, facts: Mapping[str, Any]
    ) -> list[list[int]]:
        """The rank of each subject at each detection."""
        return [
            [
                gallery_rank(
                    picture,
                    reading.background_colour,
                    (seen.x, seen.y, seen.size),
                    item.identity,
                    self.gallery,
                )
                for seen in reading.objects
            ]
            for item in Scene.from_dict(facts["scene"]).objects
        ]
