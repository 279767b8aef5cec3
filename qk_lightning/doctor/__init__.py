"""What `qk doctor` looks at: packages, machine, project, presets, weights, store, runs.

Each check yields findings and never raises; the quick ones import no library of weight.
"""
