"""Preparation of checks: the held-out sets are read, and the layers of each are planned.

Before training a mistake of the user's is raised, since nothing can be lost yet. Any other failure, there or later, is
logged, and rests its group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.free_pass import FreePass
from convscope.callbacks.engine.groups import Group, plans_of
from convscope.callbacks.engine.hierarchies import MisconfigurationException
from convscope.callbacks.engine.lockstep import is_mistake, together
from convscope.callbacks.engine.notices import Notices, shared_answers
from convscope.callbacks.engine.observer import Observer, Plan
from convscope.callbacks.engine.planning import make_plan
from convscope.callbacks.engine.progress import Progress
from convscope.capture.data.heldout import HeldOut
from convscope.capture.errors import UserError, or_mistake, users_code, users_failure

Around = AbstractContextManager[None]
"""Block in which the network is as in a check."""


@dataclass
class Preparation:
    """Reads and plans groups.

    Attributes:
        groups: All groups of the fit.
        heldout_changed: True if a held-out set is not the one that the run began with.
    """

    groups: list[Group]
    notices: Notices
    failures: Failures
    progress: Progress
    heldout_changed: bool = False

    def read_and_plan(
        self, group: Group, trainer: pl.Trainer, pl_module: pl.LightningModule, around: Around, *, lazy: bool
    ) -> None:
        """Read a group's samples and plan its layers, ``around`` which the network is as in a check.

        Those of a network that is still ``lazy`` are planned later.

        Raises:
            MisconfigurationException: if a held-out set, a layer entry or an argument does not fit this model.
        """
        with self._resting_if_it_fails(group, refusing=True), around:
            self._read(group.heldout, trainer, pl_module)
            if group.heldout.ready and not lazy:
                self._plan(group, trainer, pl_module)

    def plan_late(self, group: Group, trainer: pl.Trainer, pl_module: pl.LightningModule, around: Around) -> None:
        """Plan for a held-out set that was copied from validation batches. A mistake does not end a run under way."""
        with self._resting_if_it_fails(group, refusing=False), around:
            if not group.heldout.ready:
                together(group.heldout.finish_tapping)
            self._plan(group, trainer, pl_module)
        if group.plan is not None:
            self.say_answers([group.plan])

    @property
    def _observers(self) -> int:
        return sum(len(group.observers) for group in self.groups)

    def say_answers(self, plans: Sequence[Plan]) -> None:
        """Tell what each observer was answered."""
        for sentence in shared_answers(plans):
            self.notices.say(sentence)

    @contextmanager
    def _resting_if_it_fails(self, group: Group, *, refusing: bool) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            group.resting = True
            if refusing and is_mistake(error):
                raise MisconfigurationException(str(error)) from users_failure(error)
            self.failures.record(f"preparing the checks of {group.names}", error)

    def _read(self, heldout: HeldOut, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        default = together(lambda: self._default_loader(heldout, trainer, pl_module))
        self.progress.phase("reading held-out batches", None)
        together(
            lambda: or_mistake(
                lambda: heldout.prepare(
                    default,
                    transfer=self._counted(
                        _as_users("moving a held-out batch to the device", bridge.transfer(trainer))
                    ),
                    rank=trainer.global_rank,
                    world_size=trainer.world_size,
                    gather=bridge.gather_objects,
                    most=heldout.batch_size if bridge.fast_dev_run(trainer) else None,
                ),
                ValueError,
                TypeError,
            )
        )
        for note in heldout.notes:
            with self.failures.guard("a note on the held-out set"):  # where warnings are errors
                self.notices.warn(note)

    def _counted(self, transfer: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counted(batch: Any) -> Any:
            self.progress.advance()
            return transfer(batch)

        return counted

    def _default_loader(self, heldout: HeldOut, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
        if heldout.source is not None:
            return None
        with users_code("making the validation or held-out loader"):
            return bridge.validation_loader(trainer, pl_module, heldout.seed)

    def _plan(self, group: Group, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        heldout = group.heldout
        self.progress.phase("following the network", None)
        subject = together(lambda: bridge.subject(trainer, pl_module, heldout.network))
        plan = make_plan(subject, heldout, group.observers, self.failures)
        if plan.outputs.why_not is not None:
            self.notices.reasons.append(plan.outputs.why_not)
        for message in plan.messages:
            self.notices.say(message)
        _check_tags([*plans_of(self.groups), plan])
        self._compare_heldout(plan.observers, heldout)
        group.plan = plan
        if heldout.during_validation:
            group.free = FreePass(plan, self.failures, self.notices.say)

    def refuse_if_idle(self) -> None:
        """Raise if every observer is inactive for lack of layers: that cannot be what the user wants."""
        idle = [reason for plan in plans_of(self.groups) for reason in plan.idle]
        if any(plan.hidden for plan in plans_of(self.groups)):
            return  # there are layers that cannot be seen: no mistake of the user's
        if idle and not any(group.may_measure for group in self.groups) and len(idle) == self._observers:
            raise MisconfigurationException("; ".join(dict.fromkeys(idle)))

    def _compare_heldout(self, observers: list[Observer], heldout: HeldOut) -> None:
        changed = []
        for observer in observers:
            with self.failures.guard(f"the start of {observer.name}"):
                if not observer.same_heldout(heldout.fingerprint):
                    changed.append(observer.name)
        if changed:
            self.heldout_changed = True
            with self.failures.guard("a note on the held-out set"):  # where warnings are errors
                self.notices.warn(
                    f"the held-out set of {', '.join(changed)} is not the one that this run began with; "
                    "curves before and after this point are not comparable"
                )


def _check_tags(plans: list[Plan]) -> None:
    """Refuse two observers that would write to one tag, before anything is written."""
    seen: dict[str, str] = {}
    for observer in [observer for plan in plans for observer in plan.observers]:
        if observer.name in seen:
            raise UserError(
                f"two callbacks would both log under {observer.name!r} ({seen[observer.name]} and "
                f"{type(observer).__name__}); give one of them another name, such as name='{observer.name}_2'"
            )
        seen[observer.name] = type(observer).__name__


def _as_users(what: str, call: Any) -> Any:
    def guarded(value: Any) -> Any:
        with users_code(what):
            return call(value)

    return guarded
