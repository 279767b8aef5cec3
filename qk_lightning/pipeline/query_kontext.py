"""Drawing with a finished run: load its parts, then call it with prompts and images.

Not here: reading the arguments (requests.py), drawing batch by batch (drawing.py), outputs.
B pictures of 3 x H x W, C x h x w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from qk_lightning.assembly.pipeline_folder import (
    KeepLora,
    Origin,
    export_pipeline,
    origin_of,
    write_pipeline,
)
from qk_lightning.assembly.weights import read_entries
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.export_target import check_choice, check_target
from qk_lightning.config.exported_folder import ExportedFolder
from qk_lightning.config.find_runs import find_run
from qk_lightning.config.paths import user_path
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.pipeline.drawing import STEPS, batch_of, draw_requests, sampling
from qk_lightning.pipeline.noise import Generators, Noise
from qk_lightning.pipeline.outputs import Output, OutputType, as_output, check_output_type
from qk_lightning.pipeline.requests import Picture, Size, check_requests, make_requests
from qk_lightning.pipeline.tokens import Tokens, draw_tokens, read_tokens
from qk_lightning.systems.base import build_system
from qk_lightning.systems.query_kontext import QueryKontext


class QueryKontextPipeline:
    """A trained system that draws.

    Args:
        system: with its parts built and loaded.
        size: pixels of a picture's side where nothing else is asked.
        run: the run or exported folder that it was loaded from.
    """

    def __init__(self, system: QueryKontext, size: int, run: RunFolder | None = None) -> None:
        self.system = system.eval()
        self.size = size
        self.run = run
        self._bar: dict[str, Any] = {"disable": None}  # None: shown where there is a terminal

    @classmethod
    def from_run(cls, run: str | RunFolder, device: str = "cpu") -> QueryKontextPipeline:
        """Load a finished run.

        Args:
            run: its folder, name, or the beginning of either; or an exported folder.
            device: where to draw.

        Returns:
            The pipeline.

        Raises:
            ConfigError: there is no such run or device, it has not finished, or it does not draw.
        """
        folder = run if isinstance(run, RunFolder) else find_run(run)
        check_device(device)
        cfg = folder.config
        system = build_system(_for_drawing(cfg), read_entries(folder), folder.path.parent)
        if not isinstance(system, QueryKontext):
            fix = "name a run of a preset such as laptop/stage3"
            raise ConfigError(Problem("run", folder.name, "a run that draws pictures", fix))
        system.configure_model()
        return cls(system.to(device), cfg.data.world.size, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> QueryKontextPipeline:
        """Load a folder that `save_pretrained` or `qk export` wrote; the run is not needed.

        Args:
            folder: the folder.
            device: where to draw.

        Returns:
            The pipeline; it draws what the run's own draws, to the bit if the folder was written
            as trained and with its LoRA merged.

        Raises:
            ConfigError: it is no such folder, a damaged or newer one; there is no such device.
        """
        return cls.from_run(ExportedFolder(user_path(folder, "folder")), device)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        lora: KeepLora = "merge",
        half: bool = False,
        force: bool = False,
    ) -> Path:
        """Write all parts as a folder: safetensors, configurations, and an index of them.

        `qk export` does the same and adds a model card.

        Args:
            folder: where to write; new, empty, or with `force` an earlier export.
            lora: `merge`, or `keep` the LoRA that the run itself trained beside its part, as
                peft's adapter folder; that one is read from the run again.
            half: store float16.
            force: write over an earlier export.

        Returns:
            The folder.

        Raises:
            ConfigError: the folder holds something else, or there is no LoRA to keep.
        """
        target = user_path(folder, "folder")
        check_choice(lora)
        check_target(target, force)
        if lora == "keep":
            if self.run is None:
                fix = "leave it out, or load the pipeline by from_run"
                raise ConfigError(Problem("lora", lora, "a pipeline that knows its run", fix))
            export_pipeline(self.run, target, lora, half)
        else:
            origin = origin_of(self.run) if self.run else Origin(self.system.config)
            write_pipeline(target, origin, self.system.parts, half=half)
        return target

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return self.system.device

    def to(self, device: str | torch.device) -> QueryKontextPipeline:
        """Move it to a device.

        Args:
            device: what torch calls one.

        Returns:
            Itself.

        Raises:
            ConfigError: there is no such device.
        """
        check_device(device)
        self.system.to(device)
        return self

    def set_progress_bar_config(self, **options: Any) -> None:
        """Choose how the bar is shown; without a terminal there is none, unless `disable=False`.

        Args:
            **options: for tqdm, such as `disable=True`, `desc="drawing"` or `leave=False`.
        """
        self._bar = {"disable": None, **options}

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        sources: Sequence[Picture] = (),
        references: Sequence[Picture] = (),
        *,
        images: Sequence[Any] = (),
        roles: Sequence[Any] | None = None,
        height: Size = None,
        width: Size = None,
        num_images: int = 1,
        seed: int = 0,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        output_type: OutputType = "pil",
    ) -> Output:
        """Draw.

        Input pictures are resized to cover height x width and cropped at the centre; nothing is
        stretched. Prompts with the same roles and size are drawn as one batch.

        Args:
            prompt: the caption or instruction, or a list of them; may be empty.
            sources: pictures whose pixels are kept (the one to edit), for every prompt.
            references: pictures whose identity is kept, for every prompt.
            images: the same as pairs, `[("source", picture), ("reference", picture)]`, or
                pictures beside `roles`; for a list of prompts, a list of such lists gives each
                its own.
            roles: of `images`, where these are pictures alone.
            height: pixels, for all or for each prompt; None = as the run was trained. A multiple
                of the autoencoder's stride times the head's patch.
            width: likewise.
            num_images: how many to draw for each prompt.
            seed: of the noise; each prompt's starts from it, as if it were asked alone.
            generator: in place of a seed: one, which goes on from prompt to prompt, or one for
                each picture.
            num_inference_steps: steps of the scheduler; None = the run's own.
            guidance_scale: weight of the prompt; None = the run's own.
            image_guidance_scale: weight of the pictures; None = the run's own.
            output_type: `pil`; `pt`, [B, 3, H, W] in [0, 1]; `np`, [B, H, W, 3] in [0, 1];
                `latent`, [B, C, h, w] before decoding.

        Returns:
            All pictures of the first prompt, then those of the next, and so on. Of another type
            than `pil`: one tensor or array, or a list of them where sizes differ.

        Raises:
            ConfigError: a picture cannot be read, a number is out of range, or the system cannot
                draw such a size or with such roles.
        """
        requests = make_requests(
            prompt, sources, references, images, roles, height, width, self.size
        )
        noise = Noise(num_images, seed, generator)
        noise.check(len(requests))
        check_output_type(output_type)
        numbers = {STEPS: num_inference_steps, "guidance_scale": guidance_scale}
        with sampling(self.system, **numbers, image_guidance_scale=image_guidance_scale):
            check_requests(self.system, requests)
            is_latent = output_type == "latent"
            drawn = draw_requests(self.system, requests, noise, is_latent, self._bar)
        return as_output(drawn, output_type)

    @torch.no_grad()
    def read(
        self,
        prompt: str | Sequence[str],
        sources: Sequence[Picture] = (),
        references: Sequence[Picture] = (),
    ) -> Tokens:
        """Read prompts without drawing: what the connector would carry to the head.

        Args:
            prompt: the caption or instruction, or a list of them.
            sources: pictures whose pixels are kept, for every prompt.
            references: pictures whose identity is kept, for every prompt.

        Returns:
            The tokens, to look at, to change and to `draw`.

        Raises:
            ConfigError: a picture cannot be read, or the system cannot have such roles.
        """
        requests = make_requests(prompt, sources, references, (), None, None, None, self.size)
        check_requests(self.system, requests)
        return read_tokens(self.system, batch_of(requests).to(self.device))

    @torch.no_grad()
    def draw(
        self, tokens: Tokens, *, seed: int = 0, output_type: OutputType = "pil", **numbers: Any
    ) -> Output:
        """Draw from tokens that were read, as they are or changed.

        Args:
            tokens: of `read`, or of its methods.
            seed: of the noise, the same for each prompt.
            output_type: as when it is called with a prompt.
            **numbers: `num_inference_steps` and scales of guidance; None = the run's own.

        Returns:
            A picture for each prompt; from tokens as they were read, the one that the prompt
            itself gives.

        Raises:
            ConfigError: a number is out of range.
        """
        check_output_type(output_type)
        with sampling(self.system, **numbers):
            drawn = draw_tokens(self.system, tokens, Noise(1, seed), output_type == "latent")
        return as_output(list(drawn), output_type)


def check_device(device: str | torch.device) -> None:
    """See that a device is there, before weights are loaded.

    Args:
        device: what torch calls one.

    Raises:
        ConfigError: it is not.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch's ways to say so
        reason = str(error).splitlines()[0]
        problem = Problem("device", str(device), f"a device of this machine ({reason})", "use cpu")
        raise ConfigError(problem) from error


def _for_drawing(cfg: DictConfig) -> DictConfig:
    """Return the configuration with nothing to train: LoRA is merged, not injected again."""
    drawing = cfg.copy()
    drawing.trainable = {}
    return drawing
