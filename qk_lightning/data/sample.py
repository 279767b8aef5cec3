"""The data schema: Sample (indices only), Batch (tensors) and World (what there is to train on).

Here: types and the World interface; torch is not imported. Not here: the batch order
(mixture.py), stacking samples (collate.py), the worlds themselves (worlds/).
Shapes: B samples, N input images of a sample, 3 colours, H = W = world.size pixels,
C x h x w latent channels and cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

TASKS = (
    "text_to_image",
    "reconstruction",
    "transformation",
    "editing",
    "customised",
    "multi_subject",
)
ROLES = ("source", "reference")
SPLITS = ("train", "val")

Split = Literal["train", "val"]
Roles = tuple[str, ...]
Progress = Callable[[int, int], None]  # called with (done, total)


@dataclass(frozen=True)
class Sample:
    """One training example; its images are rows of the world's image table, not pixels.

    Args:
        id: Unique within the world and split, stable between runs.
        task: One of TASKS.
        prompt: The instruction or caption; may be empty.
        images: Rows of the input images, in the order the prompt speaks of them.
        roles: Role of each input image ("source": keep its pixels, "reference": keep its
            identity), as long as `images`.
        target: Row of the image to be made.
        facts: What is known of the target, for exact scoring; JSON-like.
        edit_mask: [H, W] bool, True where the target may differ from the source; None if unknown.

    Raises:
        ValueError: If the task or a role is unknown or roles and images differ in number.
    """

    id: str
    task: str
    prompt: str
    images: tuple[int, ...]
    roles: Roles
    target: int
    facts: dict[str, Any] = field(default_factory=dict)
    edit_mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuses what no world should make."""
        if self.task not in TASKS:
            raise ValueError(f"sample {self.id}: task {self.task!r} is none of {TASKS}")
        if len(self.images) != len(self.roles) or set(self.roles) - set(ROLES):
            raise ValueError(
                f"sample {self.id}: {len(self.images)} images with roles {self.roles}; "
                f"expected one of {ROLES} for each image"
            )


@dataclass
class Batch:
    """Samples of one layout (one task, the same roles), stacked; Lightning moves it to a device.

    Args:
        ids: The samples' ids, B of them.
        index: [B] int64, global sample index (training: position in the whole run, the key of
            the sample's noise; validation: position in the task's val split).
        task: The task of all samples.
        prompts: B prompts.
        images: [B, N, 3, H, W] float32 in [-1, 1], or None when N = 0.
        roles: The N roles, the same for all samples.
        target: [B, 3, H, W] float32 in [-1, 1].
        target_latents: [B, C, h, w] float32 from a latent cache, or None.
        image_latents: [B, N, C, h, w] float32 from a latent cache, or None.
        facts: B dictionaries.
        edit_mask: [B, H, W] bool, True where the target may differ; None if no sample has one.
    """

    ids: list[str]
    index: Tensor
    task: str
    prompts: list[str]
    images: Tensor | None
    roles: Roles
    target: Tensor
    target_latents: Tensor | None = None
    image_latents: Tensor | None = None
    facts: list[dict[str, Any]] = field(default_factory=list)
    edit_mask: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """The number of samples B."""
        return len(self.ids)

    def to(self, device: Any) -> Batch:
        """Returns the batch with its tensors on a device.

        Args:
            device: What `Tensor.to` takes.
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        moved = {key: v.to(device) if hasattr(v, "to") else v for key, v in values.items()}
        return replace(self, **moved)


class WorldPart(NamedTuple):
    """One of the worlds that a world is made of; most worlds have one part, themselves.

    Args:
        label: Its name in the whole; "" where the whole is one world.
        world: The part, with rows and indices of its own.
        weight: How often it is trained on, against the other parts.
        first_row: Its image 0 is this row of the whole.
    """

    label: str
    world: World
    weight: float
    first_row: int


class World(ABC):
    """What there is to train on: an image table and index-addressed samples over it.

    Everything is a pure function of the constructor's arguments, so any process can ask for any
    sample. A subclass sets `size` and `tasks` and writes the abstract methods.

    Layouts: a batch has one layout, so all its samples have the same roles. The samples of one
    task and split are ordered such that those of equal roles are neighbours, and `layouts` says
    how many there are of each. A world whose roles are fixed by the task needs not override it.

    Attributes:
        version: Raised when a change alters samples or pixels; part of the fingerprint.
        wired: Constructor arguments given by the assembly.
        paths: Constructor arguments that are input files or folders.
        size: Pixels of an image's side.
        tasks: The tasks this world offers, out of TASKS.
    """

    version: int = 1
    wired: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    size: int
    tasks: tuple[str, ...]

    @abstractmethod
    def fingerprint(self) -> str:
        """A short hash of all that decides samples and pixels; file-name safe."""

    def prepare(self, progress: Progress | None = None) -> None:
        """Builds caches on disk; safe when several processes call it at once.

        Args:
            progress: Called with (done, total) as images are made.
        """
        del progress

    @property
    @abstractmethod
    def num_images(self) -> int:
        """Rows of the image table (both splits)."""

    @abstractmethod
    def image(self, row: int) -> np.ndarray:
        """Returns image `row`: [3, size, size] uint8."""

    @abstractmethod
    def num_samples(self, task: str, split: Split) -> int:
        """The number of samples of a task in a split; 0 if it offers none."""

    @abstractmethod
    def sample(self, task: str, split: Split, index: int) -> Sample:
        """Returns sample `index` (taken modulo `num_samples`) of a task and split."""

    def layouts(self, task: str, split: Split) -> Sequence[tuple[Roles, int]]:
        """The layouts of a task in the order of its samples: (roles, number of samples) each.

        Args:
            task: One of `tasks`.
            split: "train" or "val".

        Returns:
            One pair a layout; the first pair covers indices 0 .. n_1 - 1, the second the next
            n_2, and so on; they add up to `num_samples`. Default: the roles of sample 0 for all.
        """
        num_samples = self.num_samples(task, split)
        return [(self.sample(task, split, 0).roles, num_samples)] if num_samples else []

    def parts(self) -> Sequence[WorldPart]:
        """The worlds this one is made of, in the order of rows and of each task's samples.

        A task is drawn by its weight, then one of the parts that offer it by theirs; a batch has
        samples of one part. Default: the world itself.
        """
        return [WorldPart("", self, 1.0, 0)]
