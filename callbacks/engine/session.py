"""One fit, shared by all observers: preparation before training, then checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import Any

import lightning.pytorch as pl

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.console import above_the_bar
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import Findings, Moment
from convscope.callbacks.engine.groups import groups_of, plans_of
from convscope.callbacks.engine.measuring import Measuring
from convscope.callbacks.engine.notices import Notices, watching
from convscope.callbacks.engine.observer import Observer, Plan
from convscope.callbacks.engine.pictures import Pictures
from convscope.callbacks.engine.preparation import Preparation
from convscope.callbacks.engine.progress import Progress
from convscope.callbacks.engine.recording import RecordKeeper
from convscope.callbacks.engine.scalars import CHANGED, Scalars
from convscope.callbacks.engine.stopwatch import Stopwatch
from convscope.callbacks.engine.swapped_weights import SwappedWeights
from convscope.metrics.functional._remembered import forget


class Session:
    """State that the observers of one ``Trainer.fit`` share; made in ``setup``, gone in ``teardown``.

    In :meth:`prepare` a mistake of the user's is raised, since nothing can be lost yet. Any other failure, there or
    later, is logged, and costs a group, an observer or a layer.

    Attributes:
        observers: The trainer's observers; the first acts for all.
        latest: The newest findings of each observer, by its name.
        checks: Number of checks made in this fit.
        progress: Receives the progress of everything that takes long.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = list(observers)
        self.latest: dict[str, Findings] = {}
        self.checks = 0
        self.progress = Progress()
        self._notices = Notices()
        self._failures = Failures(raising=any(o.on_error == "raise" for o in observers))
        self._stopwatch = Stopwatch(
            min((o.max_overhead for o in observers if o.max_overhead is not None), default=None)
        )
        self._groups = groups_of(observers)
        self._preparation = Preparation(self._groups, self._notices, self._failures, self.progress)
        self._measuring = Measuring(self._failures, self._stopwatch, self.progress)
        self._scalars = Scalars(self.observers, self._notices, self._failures)
        self._swapped = SwappedWeights(self._notices)
        self._recorder = RecordKeeper(self._failures, self.observers)
        self._pictures = Pictures(self._failures, self._recorder.pictures)
        self._undrawn: int | None = None  # step of a check that the overview does not show yet
        self._said_watching = self._said_waits = False

    @property
    def _plans(self) -> list[Plan]:
        return plans_of(self._groups)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each part of the last check took: passes, solving, drawing and writing, logging."""
        return dict(self._stopwatch.parts)

    # Before training: a mistake of the user's is raised here, when nothing can be lost.

    def prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the held-out sets and plan the layers.

        Raises:
            MisconfigurationException: if a held-out set, a layer entry or an argument does not fit this model.
        """
        with self._attended(trainer):
            self._prepare(trainer, pl_module)
        self._stopwatch.start_of_training()

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            for observer in self.observers:
                with self._failures.guard(f"the start of {observer.name}"):
                    observer.restart()
        bridge.require_whole_networks(trainer)
        self._scalars.prepare(trainer)
        lazy = bridge.uninitialised(pl_module)
        if lazy:
            self._notices.say(
                f"{', '.join(lazy)} are created in the first forward pass, which is left to training; "
                "checks begin after that"
            )
        for group in self._groups:
            around = self._as_in_a_check(trainer, "start")
            self._preparation.read_and_plan(group, trainer, pl_module, around, lazy=bool(lazy))
        for plan in self._plans:
            for observer in plan.observers:
                self._note_if_never_due(trainer, plan, observer)
        self._preparation.say_answers(self._plans)
        self._preparation.refuse_if_idle()

    def _note_if_never_due(self, trainer: pl.Trainer, plan: Plan, observer: Observer) -> None:
        epochs, first = trainer.max_epochs, observer.schedule.first_epoch(trainer.current_epoch)
        asked = self._scalars.missing(observer) is not None
        if not asked and epochs is not None and first is not None and 0 < epochs <= first:
            plan.answers.setdefault(observer.name, []).append(
                f"makes no check in this run, which ends after {epochs} epochs: its first would come at the end of "
                f"epoch {first} (every_n_epochs={observer.schedule.every_n_epochs})"
            )

    @contextmanager
    def _attended(self, trainer: pl.Trainer) -> Iterator[None]:
        """A block that the user waits for: its progress is shown, and its messages above that."""
        with above_the_bar(trainer), self.progress.waiting(trainer):
            yield

    def tap(self, batch: Any) -> None:
        """Copy a validation batch into the held-out sets that cannot be read ahead."""
        for group in self._groups:
            if group.heldout.tapping and not group.resting:
                with self._failures.guard("copying a validation batch"):
                    group.heldout.tap(batch)

    # During training.

    def expect(self, trainer: pl.Trainer, when: Moment) -> None:
        """A validation begins: observe it where a held-out set is to be read in it and a check is due at its end."""
        free = [group for group in self._groups if group.free is not None and not group.resting]
        due = self._due(trainer, when) if free else []
        if not due or not self._may_check(trainer, due):
            return
        with self._as_in_a_check(trainer, "start"):  # averaged weights are put in place by callbacks that come later
            for group in free:
                with self._failures.guard("observing the validation"):
                    group.expect(due)

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, when: Moment) -> None:
        """Make the check of every observer that is due: one pass, values, pictures, then scalars."""
        if when.at_epoch_end and any(group.plan is None and not group.resting for group in self._groups):
            with self._attended(trainer):
                self._plan_late(trainer, pl_module, when)
        due = self._due(trainer, when)
        if due:
            with self._attended(trainer):
                if self._may_check(trainer, due):
                    self._make_check(trainer, pl_module, when, due)
                    self._say_watching(trainer, pl_module)
        for group in self._groups:
            group.stop()  # of a validation that no check has read after all, too

    def _make_check(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, when: Moment, due: list[Observer]
    ) -> None:
        watch = self._stopwatch
        watch.begin()
        with self._as_in_a_check(trainer, when.trigger):
            groups = [group for group in self._groups if not group.resting]
            found = [one for group in groups for one in self._measuring.measure(group, due)]
            with self._failures.guard("remembering weights"):
                self._swapped.remember(trainer, pl_module, when)
        with watch.part("solving"):
            self._measuring.conclude(found, when)
        self.latest |= {observer.name: findings for observer, findings in found}
        with watch.part("drawing"):
            self.progress.phase("pictures", len(found))
            self._pictures.draw(trainer, found, when, self.progress)
            own = {"seconds": watch.so_far, "errors": float(self._failures.count)}
            self._recorder.write(trainer, self._plans, found, own, when)
        watch.end()
        self.checks += 1
        self._undrawn = when.step
        for observer in due:
            observer.schedule.done(when, trainer.global_step)
            with self._failures.guard(f"the end of a check of {observer.name}"):
                observer.end()
        with watch.part("logging"):
            self._scalars.log(trainer, pl_module, found, self._own_scalars(when), when)

    def _say_watching(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Once per fit, after the first check of all held-out sets, so that the sentence is true of the whole run."""
        planned = all(group.plan is not None or group.resting for group in self._groups)
        if self._said_watching or not planned:
            return
        self._said_watching = True
        with self._failures.guard("saying what is watched"):
            network = bridge.network_name(pl_module, [plan.heldout.network for plan in self._plans])
            seconds = sum(self._stopwatch.parts.values())
            self._notices.say(watching(self._plans, network, seconds, bridge.gives_alerts(trainer)))

    def _due(self, trainer: pl.Trainer, when: Moment) -> list[Observer]:
        active = [observer for plan in self._plans for observer in plan.observers]
        for observer in active:
            observer.schedule.needed = self._scalars.missing(observer) is not None
        return [observer for observer in active if observer.schedule.is_due(when, trainer.global_step)]

    @contextmanager
    def _as_in_a_check(self, trainer: pl.Trainer, trigger: str) -> Iterator[None]:
        """Let the model see a validation, with the weights that are in training, whatever triggered the check."""
        with (
            bridge.quiet_logging(trainer),
            bridge.as_validation(trainer),
            bridge.weights_in_training(trainer, self.observers[0], trigger),
        ):
            yield

    def _plan_late(self, trainer: pl.Trainer, pl_module: pl.LightningModule, when: Moment) -> None:
        for group in self._groups:
            if group.plan is None and not group.resting and not bridge.uninitialised(pl_module):
                around = self._as_in_a_check(trainer, when.trigger)
                self._preparation.plan_late(group, trainer, pl_module, around)

    def _may_check(self, trainer: pl.Trainer, due: list[Observer]) -> bool:
        """Return whether a check now keeps to ``max_overhead``; the main process's clock decides for all."""
        if any(observer.schedule.is_needed for observer in due) or self._stopwatch.max_overhead is None:
            return True
        wait = trainer.strategy.broadcast(self._stopwatch.wait())
        if wait > 0 and not self._said_waits:
            self._said_waits = True
            self._notices.say(
                f"the last check took {self._stopwatch.seconds:.2f} s; to keep checks under max_overhead="
                f"{self._stopwatch.max_overhead}, the next one waits for {wait:.1f} s more of training, and so will "
                "others"
            )
        return bool(wait <= 0)

    def _own_scalars(self, when: Moment) -> dict[str, float]:
        own = {
            "zz_convscope/seconds": self._stopwatch.seconds,
            "zz_convscope/errors": float(bridge.largest(self._failures.count)),
            CHANGED: float(self._preparation.heldout_changed),
        }
        if when.trigger != "start":
            own["zz_convscope/overhead"] = self._stopwatch.overhead
        return {tag: value for tag, value in own.items() if value is not None}

    def show_overview(self, trainer: pl.Trainer) -> None:
        """Draw the overview if a check was made since the last one. Alerts are known by then."""
        step, self._undrawn = self._undrawn, None
        if step is not None and any(observer.pictures for observer in self.observers):
            with self._failures.guard("the overview"):
                alerts = bridge.incidents_of(trainer)
                self._pictures.draw_overview(trainer, self.observers, self.layer_names(), alerts, step)

    def tell_incidents(self, trainer: pl.Trainer, step: int) -> None:
        """Write the alerts since the last check into the record."""
        self._recorder.tell_incidents(trainer, step)

    def record_logged(self, trainer: pl.Trainer, values: dict[str, float], when: Moment) -> None:
        """Write what was logged since the last validation, or epoch, into the record."""
        self._recorder.write_logged(trainer, values, when)

    def guard(self, what: str) -> AbstractContextManager[None]:
        """A block whose failure is logged once and counted, while training goes on."""
        return self._failures.guard(what)

    def look_again(self, pl_module: pl.LightningModule) -> None:
        """A training batch comes: compare the weights with those that a check has measured."""
        with self._failures.guard("comparing weights"):
            self._swapped.look_again(pl_module)

    def close(self, trainer: pl.Trainer) -> None:
        """The fit is over."""
        for group in self._groups:
            group.stop()
        self.show_overview(trainer)
        self._recorder.close(trainer)
        self._scalars.close(trainer)
        forget()

    def layer_names(self) -> list[str]:
        """Names of all observed layers, in depth order."""
        return list(self.layer_positions())

    def layer_positions(self) -> dict[str, int]:
        """Number of positions of each observed layer (1 for a vector per sample), in depth order."""
        layers = {layer.name: layer for plan in self._plans for chosen in plan.layers.values() for layer in chosen}
        return {layer.name: prod(layer.spatial) for layer in sorted(layers.values(), key=lambda layer: layer.order)}
