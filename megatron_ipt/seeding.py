"""Random choices that depend on names, never on order.

A draw is a function of (seed, parts), where parts are e.g. a document id, a purpose or a step. Resharding a corpus,
adding workers or reordering files therefore changes nothing. Parts are length-prefixed before hashing, so that
("ab", "c") and ("a", "bc") differ.
"""

from __future__ import annotations

import hashlib
import random


def derive(seed: int, *parts: str | int) -> int:
    """A 64-bit integer determined by ``seed`` and ``parts`` (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *parts):
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return int.from_bytes(digest.digest(), "big")


def generator(seed: int, *parts: str | int) -> random.Random:
    """A random generator seeded by ``seed`` and ``parts``."""
    return random.Random(derive(seed, *parts))


def unit_interval(seed: int, *parts: str | int) -> float:
    """A uniform number in [0, 1) determined by ``seed`` and ``parts``, for splits and sampling by document."""
    return derive(seed, *parts) / 2**64
