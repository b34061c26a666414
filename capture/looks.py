"""Values on the device that decide how a pass goes on, read together: each time the host waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from convscope._devices import free_to_look

Then = Callable[[Any], None]


class Looks:
    """Numbers that are wanted from the device, and what is to be done with them.

    Example:
        >>> found = []
        >>> Looks().ask(torch.tensor(3.0), found.append)
        >>> found
        [3.0]
    """

    def __init__(self) -> None:
        self._asked: list[tuple[torch.Tensor, Then]] = []

    def ask(self, value: torch.Tensor | bool, then: Then) -> None:
        """Call ``then`` with a value: at once where that costs nothing, as on the CPU, else in :meth:`answer`."""
        if isinstance(value, bool):
            then(value)
        elif free_to_look(value):
            then(value.item())
        else:
            self._asked.append((value, then))

    def answer(self) -> None:
        """Read all values that are wanted, in one exchange with the device."""
        asked, self._asked = self._asked, []
        if asked:
            device = asked[0][0].device
            values = torch.stack([value.to(device, non_blocking=True) for value, _ in asked]).tolist()
            for value, (_, then) in zip(values, asked, strict=True):
                then(value)
