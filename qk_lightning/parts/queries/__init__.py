"""Query tokens that are appended to the VLM's input."""
