"""Keeping Lightning's banners out of terminals and logs."""

from __future__ import annotations

import logging
import warnings


def quiet_lightning() -> None:
    """Silence Lightning's banners and its warnings about what is chosen here on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Frozen parts are in eval mode on purpose; data are read in this process on purpose.
    known = (
        ".*many workers.*",
        ".*litlogger.*",
        ".*in eval mode.*",
        ".*LeafSpec.*",
        ".*not empty.*",
        ".*dirpath has changed.*",  # a run that goes on from another's checkpoint
    )
    for text in known:
        warnings.filterwarnings("ignore", message=text)
