"""Schedule of one observer's checks: every n epochs, every n training steps, and once before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from convscope._arguments import flag, whole_number_or_zero
from convscope.callbacks.engine.findings import Moment


@dataclass
class Schedule:
    """The triggers of one callback, and its memory of past ones.

    Args:
        every_n_epochs: A check at the end of every n-th epoch; 0 for none.
        every_n_train_steps: A check after every n-th optimizer step; 0 for none.
        on_start: A check before the first training step.

    Raises:
        ValueError: if an argument is out of range, or no check would ever be made.
    """

    every_n_epochs: int
    every_n_train_steps: int
    on_start: bool
    _last_epoch: int = field(default=-1, init=False)
    _last_step: int = field(default=0, init=False)
    _measured: int = field(default=-1, init=False)  # optimizer steps at the last check that a step triggered
    _begun: bool = field(default=False, init=False)
    _made: int = field(default=0, init=False)  # checks in this fit
    needed: bool = field(default=False, init=False)
    """True if a callback that ends the run without its value monitors one that is not there yet."""

    def __post_init__(self) -> None:
        for name in ("every_n_epochs", "every_n_train_steps"):
            setattr(self, name, whole_number_or_zero(name, getattr(self, name), "no such check"))
        self.on_start = flag("on_start", self.on_start)
        if not (self.every_n_epochs or self.every_n_train_steps or self.on_start):
            raise ValueError(
                "every_n_epochs=0, every_n_train_steps=0, on_start=False: no check would ever be made; give at least "
                "one of them"
            )

    def is_due(self, moment: Moment, steps: int) -> bool:
        """Return whether a check is to be made at ``moment``, after ``steps`` optimizer steps.

        In a due epoch each validation run is a check, as it is for Lightning's ModelCheckpoint. A check made after
        the very same step counts for it: another one would find the same network, and report a change of zero.
        A check at the start that could not be made then is made at the end of the first epoch. So is a second check
        that a monitored value needs, such as one of drift.
        """
        if moment.trigger == "start":
            return (self.on_start or self.is_needed) and steps == 0
        if moment.trigger == "step":
            return self.every_n_train_steps > 0 and steps - self._last_step >= self.every_n_train_steps
        since = moment.epoch - self._last_epoch
        due = self.every_n_epochs > 0 and (since == 0 or since >= self.every_n_epochs)
        due = due or (self.on_start and not self._begun) or self.is_needed
        if due and steps == self._measured:
            self._last_epoch, due = moment.epoch, False
        return due

    def first_epoch(self, begins: int) -> int | None:
        """The epoch at whose end a run that begins with ``begins`` has its first check; None if that is earlier."""
        if self.every_n_train_steps or (self.on_start and not self._begun) or not self.every_n_epochs:
            return None
        return max(begins, self._last_epoch + self.every_n_epochs)

    @property
    def is_needed(self) -> bool:
        """Return whether another check may give a monitored value: every value comes from the first or second check."""
        return self.needed and self._made < 2

    def done(self, moment: Moment, steps: int) -> None:
        """Remember that a check was made."""
        self._begun, self._made = True, self._made + 1
        if moment.at_epoch_end and 0 < self.every_n_epochs <= moment.epoch - self._last_epoch:
            self._last_epoch = moment.epoch
        if moment.trigger == "step":
            self._last_step, self._measured = steps - steps % self.every_n_train_steps, steps

    def restart(self) -> None:
        """Forget past checks."""
        self._last_epoch, self._last_step, self._measured, self._begun, self._made = -1, 0, -1, False, 0

    def state_dict(self) -> dict[str, Any]:
        """The last epoch and step at which a check was made."""
        made = {"last_epoch": self._last_epoch, "last_step": self._last_step, "measured": self._measured}
        return {**made, "begun": self._begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._last_epoch, self._last_step = state["last_epoch"], state["last_step"]
        self._measured, self._begun = state.get("measured", -1), state.get("begun", True)
