"""Drawing with a finished run or an exported folder, the diffusers way.

`QueryKontextPipeline.from_run(RUN)("make the hair red", images=[("source", "me.png")], seed=1)`
"""

from qk_lightning.pipeline.drawing import check_sampling
from qk_lightning.pipeline.query_kontext import QueryKontextPipeline
from qk_lightning.pipeline.requests import Picture
from qk_lightning.pipeline.tokens import Tokens

__all__ = ["Picture", "QueryKontextPipeline", "Tokens", "check_sampling"]
