"""Claims of papers, tested in small: `experiments/claims/*.yaml` and `qk claims`.

`file` (what a claim is) -> `reader` (checks a file) -> `plan` (its runs) -> `verdict` (pure
functions) -> `results` (what its runs say) -> `run` -> `page` (the documentation page).
"""
