"""Isolation of a check: everything that it may change is restored bit for bit, however it ends."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from convscope.capture.state.network_state import preserved_state
from convscope.capture.state.settings import preserved_settings


@contextmanager
def isolated(model: nn.Module, *, seed: int, gradients: bool) -> Iterator[None]:
    """Run a block on ``model`` in evaluation mode, with a seeded random state, and leave everything as it was.

    Restored at the end, also after an exception: all that a forward can change in the network
    (:func:`~convscope.capture.state.network_state.preserved_state`), the random streams of Python, NumPy and torch (all
    devices), gradient and inference mode, and the process's settings
    (:data:`~convscope.capture.state.settings.SETTINGS`).

    Inside, compiled modules run uncompiled, since a compiled graph ignores hooks that are added later.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(preserved_settings())
        stack.enter_context(preserved_random_state(seed))
        stack.enter_context(_eager())
        stack.enter_context(preserved_state(model))
        stack.enter_context(_evaluation_mode(model))
        yield


@contextmanager
def preserved_random_state(seed: int) -> Iterator[None]:
    """Seed every random stream inside the block and restore all of them after it."""
    python, legacy = random.getstate(), np.random.get_state()
    torch_state, devices = torch.get_rng_state(), _device_random_states()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would queue a seed for an unused GPU
        for module, _ in devices:
            module.manual_seed_all(seed) if module is torch.cuda else module.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(torch_state)
        for module, states in devices:
            _restore_device(module, states)


def _device_random_states() -> list[tuple[Any, Any]]:
    states: list[tuple[Any, Any]] = []
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append((torch.cuda, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        states.append((torch.mps, torch.mps.get_rng_state()))
    return states


def _restore_device(module: Any, states: Any) -> None:
    if module is torch.cuda:
        torch.cuda.set_rng_state_all(states)
    else:
        module.set_rng_state(states)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    # The flag is set directly: .eval() and .train() may be overridden and do more than that.
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _eager() -> Iterator[None]:
    # Nothing can have been compiled before torch._dynamo is imported, and importing it takes seconds.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
