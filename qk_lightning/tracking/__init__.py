"""Tracking: MLflow as a view of the run folders, and the provenance of a run.

`mlflow_store` finds and creates the store, `mlflow_logger` writes a stage's metrics to it,
`mlflow_runs` shows finished runs and sweeps in it, `provenance` says what made a run.
"""
