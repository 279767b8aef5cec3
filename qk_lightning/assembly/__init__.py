"""Putting parts together: building, wiring, loading, LoRA, and the record in weights.json."""
