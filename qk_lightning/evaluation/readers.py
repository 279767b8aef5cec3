"""Which reader reads which world."""

from __future__ import annotations

from qk_lightning.data.sample import World
from qk_lightning.data.worlds.avatars import Avatars
from qk_lightning.data.worlds.scenes import Scenes
from qk_lightning.evaluation.avatar_reader import AvatarReader
from qk_lightning.evaluation.scene_reader import SceneReader
from qk_lightning.evaluation.subject_gallery import held_out_subjects
from qk_lightning.evaluation.verdict import Reader


def reader_for(world: World) -> Reader | None:
    """Return what reads a world's pictures, None where nothing can.

    Args:
        world: One world; of a mixture, one of its worlds.
    """
    if isinstance(world, Scenes):
        gallery = held_out_subjects(world.held_out.holds_subject)
        return SceneReader(world.size, world.shapes, gallery)
    if isinstance(world, Avatars):
        return AvatarReader(world)
    return None
