"""Seeds of each sample's randomness by its number, so that it is read the same by any process at any time."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch

from convscope.capture.state.generators import find_generators, reseed, restorer


class SampleSeeds:
    """Seeds of every random stream for one sample: the global ones, and private ones reachable from ``roots``.

    A generator that the first read creates (``self.rng = default_rng()`` in ``__getitem__``) is not found before it;
    :meth:`look_again` returns whether there are any.
    """

    def __init__(self, seed: int, *roots: Any) -> None:
        self._seed, self._roots = seed, roots
        self._private = find_generators(*roots)
        self._restore = [restorer(generator) for generator in self._private]

    def sow(self, number: int, purpose: str = "read") -> None:
        """Seed all streams by the sample's number; the draws of two purposes are independent."""
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
        """Restore the private generators to the state in which they were found."""
        for put_back in self._restore:
            put_back()

    def look_again(self) -> bool:
        """Search generators again; return True if there are more than before."""
        known = set(map(id, self._private))
        fresh = [generator for generator in find_generators(*self._roots) if id(generator) not in known]
        self._private += fresh
        self._restore += [restorer(generator) for generator in fresh]
        return len(fresh) > 0
