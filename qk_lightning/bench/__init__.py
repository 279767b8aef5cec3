"""What `qk bench` measures: which parts fit together, and how large they are."""
