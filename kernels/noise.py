"""Noise as a function of (seed, sample, draw, element): Philox4x32-10 words and Box-Muller normals, in NumPy.

This is the definition that the GPU kernel `noise.cu` is held to, and what the CPU engine uses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)
_BLOCKS = 16384  # computed at once: what lies between words and normals stays in the core's cache

CONDITION_DRAW = 2**32 - 1
"""The draw that conditions are drawn with."""

DRAWS_PER_ATTEMPT = 65536
"""Attempt a of a sample that was rejected and redrawn adds a times this to the draw."""


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    `counter`: (..., 4) words, least significant first; `key`: (2,) words. Returns (..., 4) random words.
    """
    columns = np.moveaxis(np.asarray(counter, np.uint32), -1, 0).astype(np.uint64)
    words = _rounds(columns[0], columns[1], columns[2], columns[3], key)
    return np.stack(words, axis=-1).astype(np.uint32)


def standard_normal(seed: int, sample: int, draw: int, size: int) -> NDArray[np.float32]:
    """Standard normals (size,) float32 of one draw of one sample; see `docs/gpu.md` for the formula.

    `seed` and `sample` are 64-bit, `draw` is 32-bit, all unsigned; else ValueError. Words (0, 1) of a block give its
    elements 0 and 1, words (2, 3) its elements 2 and 3 (Box & Muller 1958). Logarithm, sine and cosine are evaluated
    in float64 and rounded, so that one CPU's mathematics library gives the float32 values of another's.
    """
    _check(seed, sample, draw, size)
    normals = np.empty(((size + 3) // 4, 4), np.float32)
    for at in range(0, len(normals), _BLOCKS):
        part = normals[at : at + _BLOCKS]
        _box_muller(_words(seed, sample, draw, np.arange(at, at + len(part), dtype=np.uint64)), part)
    return normals.reshape(-1)[:size]


def standard_normal_where(seed: int, sample: int, draw: int, wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`standard_normal` of as many elements as `wanted` (size,) has, where it is true; elsewhere it may be 0."""
    size = wanted.size
    _check(seed, sample, draw, size)
    normals = np.zeros(((size + 3) // 4, 4), np.float32)
    blocks = np.flatnonzero(np.pad(wanted, (0, -size % 4)).view(np.uint32)).astype(np.uint64)
    for at in range(0, blocks.size, _BLOCKS):
        some = blocks[at : at + _BLOCKS]
        part = np.empty((some.size, 4), np.float32)
        _box_muller(_words(seed, sample, draw, some), part)
        normals[some.astype(np.intp)] = part
    return normals.reshape(-1)[:size]


def uniform(seed: int, sample: int, draw: int, size: int) -> NDArray[np.float64]:
    """Uniform numbers (size,) float64 in the open interval (0, 1): ((word >> 8) + 0.5) 2^-24, a word an element."""
    words = random_words(seed, sample, draw, size).reshape(-1)[:size]
    return ((words >> np.uint32(8)).astype(np.float64) + 0.5) * 2.0**-24


def random_words(seed: int, sample: int, draw: int, size: int) -> NDArray[np.uint32]:
    """The Philox words (ceil(size / 4), 4) of a draw: key = seed, counter = (block, draw, sample low, sample high)."""
    _check(seed, sample, draw, size)
    words = np.empty(((size + 3) // 4, 4), np.uint32)
    for at in range(0, len(words), _BLOCKS):
        part = words[at : at + _BLOCKS]
        part[:] = _words(seed, sample, draw, np.arange(at, at + len(part), dtype=np.uint64))
    return words


def _check(seed: int, sample: int, draw: int, size: int) -> None:
    for name, value, bits in (("seed", seed, 64), ("sample", sample, 64), ("draw", draw, 32), ("size", size, 34)):
        if not 0 <= value < 2**bits:
            raise ValueError(f"{name} {value} is not in 0..2^{bits} - 1")


def _words(seed: int, sample: int, draw: int, blocks: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The words (n, 4) of blocks (n,) of a draw."""
    fixed = (np.full_like(blocks, word) for word in (draw, sample & 0xFFFFFFFF, sample >> 32))
    words = np.empty((blocks.size, 4), np.uint32)
    np.stack(_rounds(blocks, *fixed, key=split_words(seed)), axis=-1, out=words, casting="unsafe")
    return words


def split_words(value: int) -> NDArray[np.uint32]:
    """A 64-bit number as its (low, high) 32-bit words."""
    return np.array([value & 0xFFFFFFFF, value >> 32], np.uint32)


def _box_muller(words: NDArray[np.uint32], normals: NDArray[np.float32]) -> None:
    """Words (blocks, 4) to normals of the same shape."""
    u1 = ((words[:, 0::2] >> np.uint32(8)) + np.uint32(1)) * 2.0**-24
    angle = (words[:, 1::2] >> np.uint32(8)) * (2.0 * np.pi * 2.0**-24)
    radius = np.sqrt(-2.0 * np.log(u1)).astype(np.float32)
    np.multiply(radius, np.cos(angle).astype(np.float32), out=normals[:, 0::2])
    np.multiply(radius, np.sin(angle).astype(np.float32), out=normals[:, 1::2])


def _rounds(
    c0: NDArray[np.uint64],
    c1: NDArray[np.uint64],
    c2: NDArray[np.uint64],
    c3: NDArray[np.uint64],
    key: NDArray[np.uint32],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """The ten rounds on four arrays of 32-bit words held in 64 bits, so that a product keeps its high half."""
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(_ROUNDS):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _SHIFT_32) ^ c1 ^ np.uint64(k0)
        c2 = (product0 >> _SHIFT_32) ^ c3 ^ np.uint64(k1)
        c1 = product1 & _LOW_32
        c3 = product0 & _LOW_32
        k0 = (k0 + _WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3
