"""Random numbers that are the same on every machine and with every numpy.

numpy may change how its Generator turns bits into numbers; it promises never to change the bits of a bit
generator. So we take raw bits of Philox (Salmon 2011, a counter-based generator) and turn them into numbers
here, with integer arithmetic and one exactly rounded multiplication.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]
BitArray = np.ndarray[Any, np.dtype[np.uint64]]

_UNIT = 2.0**-53


def spread(bits: BitArray, bound: int | IntArray) -> IntArray:
    """Whole numbers in [0, bound) from 64 random bits each; even to within bound / 2**53."""
    unit = (bits >> np.uint64(11)).astype(np.float64) * _UNIT
    return (unit * bound).astype(np.int64)


def mix(bits: BitArray) -> BitArray:
    """splitmix64's finaliser (Steele 2014): nearby numbers in, unrelated numbers out."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class Stream:
    """An endless, named sequence of random bits. Streams with different names are unrelated."""

    def __init__(self, *name: object) -> None:
        text = "\x1f".join(str(word) for word in name)
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
        self._bits = np.random.Philox(key=key)

    def bits(self, *shape: int) -> BitArray:
        """64 random bits for each entry of `shape`."""
        return self._bits.random_raw(int(np.prod(shape))).reshape(shape)

    def below(self, bound: int | IntArray, *shape: int) -> IntArray:
        """Whole numbers in [0, bound), `bound` a number or an array that broadcasts to `shape`."""
        return spread(self.bits(*shape), bound)

    def chance(self, probability: float, *shape: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """True with this probability."""
        return (self.bits(*shape) >> np.uint64(11)).astype(np.float64) * _UNIT < probability

    def permutation(self, size: int) -> IntArray:
        """The numbers [0, size) in random order."""
        return np.argsort(self.bits(size), kind="stable")
