"""What the fork server imports once, so that a run starts in a second and not in fifteen.

Libraries only. Our own modules load in milliseconds once these are there, and a run's digest of
sources names the modules that the run itself loaded: none may come from here. Nothing may start
a thread or an OpenMP region, for the runs are forked from this process.
"""

from __future__ import annotations

import contextlib
import importlib
import os

# Telemetry would start a thread, and wait for hosts that a cluster's nodes cannot reach.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

LIBRARIES = (
    "torch",
    "lightning.pytorch",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "peft",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "safetensors.torch",
    "omegaconf",
    "PIL.Image",
)

for _name in LIBRARIES:
    # A library that is missing is named by the run that needs it.
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)
