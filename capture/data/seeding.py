"""Each sample's randomness is seeded by its number, so that a sample is read the same whoever reads it, and when."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch

from convscope.capture.state.generators import find_generators, reseed, restorer


class SampleSeeds:
    """Seeds every random stream for one sample: the global ones, and private ones that are reachable from ``roots``.

    A generator that comes into being at the first read (``self.rng = default_rng()`` in ``__getitem__``) is not found
    before; :meth:`look_again` says whether there are any such.
    """

    def __init__(self, seed: int, *roots: Any) -> None:
        self._seed, self._roots = seed, roots
        self._private = find_generators(*roots)
        self._restore = [restorer(generator) for generator in self._private]

    def sow(self, number: int, purpose: str = "read") -> None:
        """Seed all streams by the sample's number; what two purposes draw is independent."""
        digest = hashlib.sha256(f"{self._seed}/{number}/{purpose}".encode()).digest()
        value = int.from_bytes(digest[:8], "little") >> 1
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.default_generator.manual_seed(value)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(value)
        for generator in self._private:
            reseed(generator, value)

    def put_back(self) -> None:
        """Put the private generators back to where they were when they were found."""
        for put_back in self._restore:
            put_back()

    def look_again(self) -> bool:
        """Look for generators anew; True if there are more than before."""
        known = set(map(id, self._private))
        fresh = [generator for generator in find_generators(*self._roots) if id(generator) not in known]
        self._private += fresh
        self._restore += [restorer(generator) for generator in fresh]
        return len(fresh) > 0
