"""Bridges from the VLM's hidden states to the condition that a head reads."""
