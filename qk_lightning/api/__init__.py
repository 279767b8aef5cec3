"""What the command line does, as functions that a notebook calls; `qk_lightning` exports them.

`training` (fit), `sweeping` (sweep, report) -> `comparison`, `runs` -> `drawing` (generate),
`scoring` (evaluate), `looking` (explain, dry_run, show_world). Nothing here computes: it calls what
the command line calls and returns objects instead of printing. Edited parts are seen at the next
call, as training happens in processes of its own.
"""
