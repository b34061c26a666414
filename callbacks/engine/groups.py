"""Groups of observers: all that share one held-out set, with the plan of their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convscope.callbacks.engine.free_pass import FreePass
from convscope.callbacks.engine.observer import Observer, Plan
from convscope.capture.data.heldout import HeldOut


@dataclass
class Group:
    """The observers of one held-out set. ``plan`` is None before its samples are known, and if all are inactive."""

    heldout: HeldOut
    observers: list[Observer]
    plan: Plan | None = None
    resting: bool = False
    free: FreePass | None = None

    @property
    def names(self) -> str:
        return ", ".join(observer.name for observer in self.observers)

    @property
    def may_measure(self) -> bool:
        """Return whether some observer has, or may yet have, something to measure."""
        return not self.resting and (self.plan is None or bool(self.plan.observers))

    def expect(self, due: Sequence[Observer]) -> None:
        """A validation begins that may stand for the pass of those that are due."""
        if self.free is not None and self.plan is not None:
            self.free.expect([observer for observer in self.plan.observers if observer in due])

    def stop(self) -> None:
        """The fit is over."""
        if self.free is not None:
            self.free.stop()


def groups_of(observers: Sequence[Observer]) -> list[Group]:
    """The observers by their held-out sets; those that name none share one."""
    shared = HeldOut()
    groups: dict[tuple[Any, ...], Group] = {}
    for observer in observers:
        heldout = observer.heldout or shared
        groups.setdefault(heldout.identity, Group(heldout, [])).observers.append(observer)
    return list(groups.values())


def plans_of(groups: Sequence[Group]) -> list[Plan]:
    """The plans by which checks can be made."""
    return [group.plan for group in groups if group.plan is not None and not group.resting]
