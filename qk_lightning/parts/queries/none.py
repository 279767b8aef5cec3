"""No query token: the baseline that reads the prompt's own states.

B batch, D hidden width of the VLM, L its layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qk_lightning.parts.queries.reading import Noise, QueriesPart


class None_(QueriesPart):  # noqa: N801 - `None` is taken
    """The prompt's states alone are the condition, whether the system reads `text` or `both`.

    Nothing is trained (set `trainable.queries=frozen`), but `layer: mix` has weights to train.
    `system.context=queries` would leave the head without a condition and is refused.

    Args:
        layer: Where the prompt is read: `last`, an index of transformers' hidden_states (0 to L
            or negative), or `mix`, a learned weighted mean of all.
        hidden_size: Width of the VLM, D.
        num_layers: Layers of the VLM, L.

    Source: MetaQuery, arXiv 2504.06256, sec. 3 (last-layer embeddings against queries).
    """

    version = 1
    wired = ("hidden_size", "num_layers")
    num_queries = 0

    def __init__(
        self, *, layer: str = "last", hidden_size: int, num_layers: int | None = None
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.read_at(layer, num_layers)

    def forward(self, batch_size: int, noise: Noise | None = None) -> Tensor:
        """Make no query for each sample.

        Args:
            batch_size: B.
            noise: Not used.

        Returns:
            [B, 0, D], float32.
        """
        return torch.zeros(batch_size, 0, self.hparams.hidden_size, device=self.device)
