"""Worlds: one file each; `data.world.name` in YAML is the file's name."""
