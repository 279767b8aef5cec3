"""Query tokens drawn anew for every sample and step: the control for fixed ones.

B batch, K queries, D hidden width of the VLM, L its layers.
"""

from __future__ import annotations

from torch import Tensor

from qk_lightning.parts.queries.reading import Noise, QueriesPart, check_count


class Noisy(QueriesPart):
    """K random vectors that belong to the sample, so nothing of them can be learned by heart.

    In training they are a function of (seed, global sample index), so each step draws new ones
    and a run can be repeated; in validation and drawing of (0, index in the set). They are no
    parameters: set `trainable.queries=frozen`, but `layer: mix` has weights to train.

    Args:
        num_queries: Number of queries, K.
        init_std: Standard deviation of the normal draw.
        layer: Where prompt and queries are read: `last`, an index of transformers' hidden_states
            (0 to L or negative), or `mix`, a learned weighted mean of all.
        hidden_size: Width of the VLM, D.
        num_layers: Layers of the VLM, L.
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
        self.read_at(layer, num_layers)

    def forward(self, batch_size: int, noise: Noise | None = None) -> Tensor:
        """Draw the queries of a batch.

        Args:
            batch_size: B.
            noise: Draws numbers that belong to the samples.

        Returns:
            Queries [B, K, D], float32.

        Raises:
            ValueError: Without `noise`, as numbers from nowhere could not be drawn again.
        """
        if noise is None:
            raise ValueError(
                "noise: None, expected a function that draws [B, K, D]; pass for example "
                "partial(normal, seed, 'queries', batch.index) of data/randomness.py."
            )
        return noise((self.num_queries, self.hparams.hidden_size)) * self.hparams.init_std
