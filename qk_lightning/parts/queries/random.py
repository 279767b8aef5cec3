"""Random query tokens that never learn: the control for learnable ones.

B batch, K queries, D hidden width of the VLM, L its layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qk_lightning.parts.queries.reading import Noise, QueriesPart, check_count


class Random(QueriesPart):
    """K fixed random vectors, saved with the part and never trained.

    They are no parameters, so a configuration with them must not list `queries` in `trainable`
    (set `trainable.queries=frozen` where a preset does); but `layer: mix` has weights to train.

    Args:
        num_queries: Number of queries, K.
        init_std: Standard deviation of the normal draw.
        layer: Where prompt and queries are read: `last`, an index of transformers' hidden_states
            (0 to L or negative), or `mix`, a learned weighted mean of all.
        hidden_size: Width of the VLM, D.
        num_layers: Layers of the VLM, L.

    Source: MetaQuery, arXiv 2504.06256, sec. 3 (random against learnable queries).
    """

    version = 1
    wired = ("hidden_size", "num_layers")

    def __init__(
        self,
        *,
        num_queries: int = 64,
        init_std: float = 0.02,
        layer: str = "last",
        hidden_size: int,
        num_layers: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_count(num_queries)
        self.num_queries = num_queries
        self.register_buffer("table", torch.randn(num_queries, hidden_size) * init_std)
        self.read_at(layer, num_layers)

    def forward(self, batch_size: int, noise: Noise | None = None) -> Tensor:
        """Repeat the queries for a batch.

        Args:
            batch_size: B.
            noise: Not used.

        Returns:
            Queries [B, K, D], a copy.
        """
        return self.table.expand(batch_size, -1, -1).clone()
