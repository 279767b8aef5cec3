"""Learnable query tokens.

B batch, K queries, D hidden width of the VLM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qk_lightning.parts.base import Part


class Learnable(Part):
    """K learnt vectors that enter the VLM after the prompt; its states there are the kontext.

    Args:
        num_queries: Number of queries, K.
        init_std: Standard deviation of the normal initialisation.
        hidden_size: Width of the VLM, D.

    Source: MetaQuery, arXiv 2504.06256, sec. 3; Query-Kontext, arXiv 2509.26641.
    """

    version = 1
    wired = ("hidden_size",)

    def __init__(self, *, num_queries: int = 64, init_std: float = 0.02, hidden_size: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_queries < 1:
            raise ValueError(
                f"num_queries: {num_queries}, expected 1 or more; for none set system.context=text."
            )
        self.num_queries = num_queries
        self.table = nn.Parameter(torch.randn(num_queries, hidden_size) * init_std)

    def forward(self, batch_size: int) -> Tensor:
        """Repeat the queries for a batch.

        Args:
            batch_size: B.

        Returns:
            Queries [B, K, D]; a copy, since a view of a sharded parameter must not leave a part.
        """
        return self.table.expand(batch_size, -1, -1).clone()
