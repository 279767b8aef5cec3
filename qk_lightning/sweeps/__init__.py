"""Sweeps: many runs from one file, done once, compared with intervals over seeds.

`file` (what a sweep file may say) -> `plan` (the graph of runs) -> `run` (executor, over `pool`
and `worker`) -> `results` and `statistics` -> `report`, `plots`. None of it imports torch in the
process that starts a sweep.
"""
