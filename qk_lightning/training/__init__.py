"""The Trainer's side of a run: callbacks, EMA, checkpoints, and `run_stage`'s parts."""
