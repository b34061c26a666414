"""Restore private random generators: those that a data set, sampler or module owns itself.

A seed of the global streams does not reach a ``torch.Generator``, a ``numpy.random.Generator`` or a ``random.Random``
that lives in an attribute. Two objects may share one (``random_split`` with a generator, then a sampler with the same),
so a draw for a check would advance the training's own stream.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from convscope.capture.state.object_graph import reachable


@contextmanager
def preserved_generators(*roots: Any, seed: int | None = None) -> Iterator[None]:
    """Restore, at the end of the block, the state of every random generator that is reachable from ``roots``.

    With ``seed`` they begin the block at that seed, whatever their state in training.
    """
    generators = find_generators(*roots)
    restore = [restorer(generator) for generator in generators]
    try:
        if seed is not None:
            for generator in generators:
                reseed(generator, seed)
        yield
    finally:
        for put_back in restore:
            put_back()


def find_generators(*roots: Any) -> list[Any]:
    """Every ``torch.Generator``, NumPy and Python generator in attributes, containers, closures, bound methods.

    Also those in global variables and class attributes that the user's own functions name.
    """
    return [item for item in reachable(*roots) if _is_generator(item)]


def _is_generator(item: Any) -> bool:
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.SeedSequence, random.Random)
    return isinstance(item, kinds) and not isinstance(item, random.SystemRandom)


def restorer(generator: Any) -> Callable[[], Any]:
    """A call that restores a random generator's present state."""
    if isinstance(generator, torch.Generator):
        state = generator.get_state()
        return partial(generator.set_state, state)
    if isinstance(generator, np.random.Generator):
        return restorer(generator.bit_generator)
    if isinstance(generator, np.random.BitGenerator):
        return partial(_put_back_bits, generator, generator.state, _spawning(generator))
    if isinstance(generator, np.random.SeedSequence):
        return partial(generator.__setstate__, generator.__reduce__()[2])  # type: ignore[attr-defined]
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state())
    return partial(generator.setstate, generator.getstate())


def _spawning(bits: np.random.BitGenerator) -> Callable[[], Any]:
    """A call that restores the number of children that a bit generator's seed has had."""
    seeds = getattr(bits, "seed_seq", None)
    return restorer(seeds) if isinstance(seeds, np.random.SeedSequence) else lambda: None


def _put_back_bits(bits: np.random.BitGenerator, state: Any, spawning: Callable[[], Any]) -> None:
    bits.state = state
    spawning()


def reseed(generator: Any, seed: int) -> None:
    """Seed a private generator of any kind; a seed sequence is kept."""
    if isinstance(generator, np.random.SeedSequence):
        return
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state  # type: ignore[call-arg]
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed % 2**32)
    else:
        generator.seed(seed)
