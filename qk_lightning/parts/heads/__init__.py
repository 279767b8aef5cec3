"""Diffusion heads: noisy latents and a condition in, velocity out."""
