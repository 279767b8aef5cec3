"""Configuration: composing YAML, checking it against constructors, identity, run folders.

Nothing here imports torch: composing, explaining and planning stay fast.
"""
