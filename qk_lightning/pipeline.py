"""Drawing with a finished run: load its parts, then call it with a prompt and images.

    pipeline = QueryKontextPipeline.from_run("stage3-1a2b3c4d5e")
    pictures = pipeline("a person with red hair", sources=["me.png"], seed=1)

B pictures of 3 x H x W.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from PIL import Image

from qk_lightning.assembly.weights import read_entries
from qk_lightning.config.arguments import check_counts, check_drawing, check_numbers
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.find_runs import find_run
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.data.collate import to_pixels, to_unit
from qk_lightning.data.pictures import load_picture
from qk_lightning.data.sample import Batch
from qk_lightning.systems.base import build_system
from qk_lightning.systems.query_kontext import QueryKontext

STEPS = "num_inference_steps"
Picture = Image.Image | Path | str


class QueryKontextPipeline:
    """A trained system that draws.

    Args:
        system: with its parts built and loaded.
        size: pixels of a picture's side.
    """

    def __init__(self, system: QueryKontext, size: int) -> None:
        self.system = system.eval()
        self.size = size
        self._own = dict(system.config.sampling)

    @classmethod
    def from_run(cls, run: str | RunFolder, device: str = "cpu") -> QueryKontextPipeline:
        """Load a finished run.

        Args:
            run: its folder, name, or the beginning of either.
            device: where to draw.

        Returns:
            The pipeline.

        Raises:
            ConfigError: there is no such run, it has not finished, or it does not draw.
        """
        folder = run if isinstance(run, RunFolder) else find_run(run)
        cfg = folder.config
        system = build_system(_for_drawing(cfg), read_entries(folder), folder.path.parent)
        if not isinstance(system, QueryKontext):
            fix = "name a run of a preset such as laptop/stage3"
            raise ConfigError(Problem("run", folder.name, "a run that draws pictures", fix))
        system.configure_model()
        try:
            system.to(device)
        except (RuntimeError, AssertionError) as error:  # torch's ways to say: no such device
            reason = str(error).splitlines()[0]
            problem = Problem("device", device, f"a device of this machine ({reason})", "use cpu")
            raise ConfigError(problem) from error
        return cls(system, cfg.data.world.size)

    def __call__(
        self,
        prompt: str,
        sources: Sequence[Picture] = (),
        references: Sequence[Picture] = (),
        *,
        num_images: int = 1,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
    ) -> list[Image.Image]:
        """Draw.

        Args:
            prompt: the caption or instruction; may be empty.
            sources: pictures whose pixels are kept (the one to edit).
            references: pictures whose identity is kept.
            num_images: how many to draw.
            seed: of the noise.
            num_inference_steps: steps of the scheduler; None = the run's own.
            guidance_scale: weight of the prompt; None = the run's own.
            image_guidance_scale: weight of the pictures; None = the run's own.

        Returns:
            The pictures.

        Raises:
            ConfigError: a picture cannot be read, or a number is out of range.
        """
        check_drawing(prompt, num_images, seed)
        self._set_sampling(num_inference_steps, guidance_scale, image_guidance_scale)
        roles = ("source",) * len(sources) + ("reference",) * len(references)
        given = [to_unit(load_picture(item, self.size)) for item in (*sources, *references)]
        batch = self._batch(prompt, given, roles, num_images)
        generator = torch.Generator().manual_seed(seed)
        shape = (num_images, *self.system.latent_shape(batch))
        noise = torch.randn(shape, generator=generator).to(self.system.device)
        latents = self.system.sample(batch.to(self.system.device), noise)
        with torch.no_grad():
            images = self.system.autoencoder.decode(latents).clamp(-1, 1)
        return [Image.fromarray(to_pixels(image).transpose(1, 2, 0)) for image in images]

    def _set_sampling(self, steps: int | None, text: float | None, image: float | None) -> None:
        given = {
            "num_inference_steps": steps,
            "guidance_scale": text,
            "image_guidance_scale": image,
        }
        check_sampling(**given)
        for name, value in given.items():
            self.system.config.sampling[name] = self._own[name] if value is None else value

    def _batch(
        self, prompt: str, images: list[torch.Tensor], roles: tuple[str, ...], count: int
    ) -> Batch:
        if "source" in roles:
            task = "editing"
        else:
            task = ("text_to_image", "customised", "multi_subject")[min(len(roles), 2)]
        stacked = torch.stack(images).expand(count, -1, -1, -1, -1) if images else None
        return Batch(
            ids=[str(number) for number in range(count)],
            index=torch.arange(count),
            task=task,
            prompts=[prompt] * count,
            images=stacked,
            roles=roles,
            target=torch.zeros(count, 3, self.size, self.size),
        )


def check_sampling(**given: float | None) -> None:
    """See that pictures can be drawn with these numbers.

    Args:
        **given: `num_inference_steps` and scales of guidance; None = the run's own.

    Raises:
        ConfigError: with those that are out of range.
    """
    check_counts([STEPS], **{STEPS: given.get(STEPS)})
    check_numbers(**given)


def _for_drawing(cfg: DictConfig) -> DictConfig:
    """Return the configuration with nothing to train: LoRA is merged, not injected again."""
    drawing = cfg.copy()
    drawing.trainable = {}
    return drawing
