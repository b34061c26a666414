"""Look on while a network runs, from where a check does not put things back."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn


class Seen(list[Any]):
    """What a spy saw; a plain list takes no weak reference."""


def watch(module: nn.Module, read: Callable[..., Any]) -> Seen:
    """A list to which ``read(module, args, output)`` is added at each call of the module, unless it is None.

    The state of hooks is put back after a check, closures included: only what a weak reference names is out of reach.
    """
    seen = Seen()
    found = weakref.ref(seen)

    def hook(*call: Any) -> None:
        value, kept = read(*call), found()
        if value is not None and kept is not None:
            kept.append(value)

    module.register_forward_hook(hook)
    return seen
