"""Random numbers that are functions of their address: hashes, uniform draws, orders.

Not a library's generator: their streams may change between versions, and a resumed or repeated
run must not. All functions work element by element on arrays.
"""

from __future__ import annotations

import numpy as np

_WORD = 2**64 - 1


def mix(*words: int | np.ndarray) -> np.ndarray:
    """Hashes words to one number each (the finaliser of splitmix64, chained over the words).

    Args:
        words: Integers or integer arrays that broadcast to [n]; taken modulo 2^64.

    Returns:
        [n] uint64 (n = 1 if all words are plain integers).

    Source:
        Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        part = np.atleast_1d(np.asarray(word & _WORD if isinstance(word, int) else word))
        state = (state ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def hash_uniform(word: np.ndarray) -> np.ndarray:
    """Turns hashes into numbers in [0, 1): their upper 53 bits.

    Args:
        word: [n] uint64.

    Returns:
        [n] float64.
    """
    return (word >> np.uint64(11)) * 2.0**-53


def permutation(count: int, *words: int) -> np.ndarray:
    """An order of `count` items that is a function of some words: the items sorted by hash.

    Args:
        count: The number of items.
        words: Integers; others give another order.

    Returns:
        [count] int64, each of 0 .. count - 1 once.
    """
    # No two hashes are equal: with the words before it fixed, `mix` is one to one in the last.
    return np.argsort(mix(*words, np.arange(count)))
