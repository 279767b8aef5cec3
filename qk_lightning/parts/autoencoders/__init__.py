"""Codecs between images and latents."""
