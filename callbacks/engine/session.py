"""One fit, shared by all observers: the held-out sets, the layers of each, and the check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.console import above_the_bar
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import Findings, Moment
from convscope.callbacks.engine.hierarchies import MisconfigurationException
from convscope.callbacks.engine.lockstep import is_mistake, together
from convscope.callbacks.engine.notices import Notices, shared_answers, watching
from convscope.callbacks.engine.observer import Observer, Plan
from convscope.callbacks.engine.overview import OVERVIEW, overview_scalars
from convscope.callbacks.engine.pictures import Pictures
from convscope.callbacks.engine.planning import make_plan
from convscope.callbacks.engine.progress import Progress
from convscope.callbacks.engine.recording import RecordKeeper
from convscope.callbacks.engine.shared_pass import run_pass
from convscope.callbacks.engine.stopwatch import Stopwatch
from convscope.capture.data.heldout import HeldOut
from convscope.capture.errors import UserError, or_mistake, users_code, users_failure

Results = list[tuple["Observer", Findings]]


@dataclass
class _Group:
    """The observers of one held-out set. ``plan`` is None before its samples are known, and if all are inactive."""

    heldout: HeldOut
    observers: list[Observer]
    plan: Plan | None = None
    resting: bool = False

    @property
    def names(self) -> str:
        return ", ".join(observer.name for observer in self.observers)

    @property
    def may_measure(self) -> bool:
        """Return whether some observer has, or may yet have, something to measure."""
        return not self.resting and (self.plan is None or bool(self.plan.observers))


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
        self._recorder = RecordKeeper(self._failures, self.observers)
        self._pictures = Pictures(self._failures, self._recorder.pictures)
        self._heldout_changed = False
        self._undrawn: int | None = None  # step of a check that the overview does not show yet
        self._tags: set[str] = set()
        self._renamed = ExitStack()
        self._monitored: dict[str, str] = {}
        self._seen: dict[str, torch.Tensor] = {}
        self._said_swapped = self._said_watching = self._said_waits = False
        shared = HeldOut()
        groups: dict[tuple[Any, ...], _Group] = {}
        for observer in observers:
            heldout = observer.heldout or shared
            groups.setdefault(heldout.identity, _Group(heldout, [])).observers.append(observer)
        self._groups = list(groups.values())

    @property
    def _plans(self) -> list[Plan]:
        return [group.plan for group in self._groups if group.plan is not None and not group.resting]

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
        with self._failures.guard("looking for loggers"):
            self._renamed.enter_context(bridge.scalars_renamed(trainer, lambda tag: tag in self._tags))
        self._keep_available(trainer)
        self._serve_monitors(trainer)
        lazy = bridge.uninitialised(pl_module)
        if lazy:
            self._notices.say(
                f"{', '.join(lazy)} are created in the first forward pass, which is left to training; "
                "checks begin after that"
            )
        for group in self._groups:
            with self._resting_if_it_fails(group, refusing=True), self._as_in_a_check(trainer, "start"):
                self._read(group.heldout, trainer, pl_module)
                if group.heldout.ready and not lazy:
                    self._plan(group, trainer, pl_module)
        for observer in (observer for plan in self._plans for observer in plan.observers):
            self._note_if_never_due(trainer, observer)
        self._say_answers(self._plans)
        self._refuse_if_idle()

    @contextmanager
    def _attended(self, trainer: pl.Trainer) -> Iterator[None]:
        """A block that the user waits for: its progress is shown, and its messages above that."""
        with above_the_bar(trainer), self.progress.waiting(trainer):
            yield

    def _note_if_never_due(self, trainer: pl.Trainer, observer: Observer) -> None:
        epochs, plan = trainer.max_epochs, next(plan for plan in self._plans if observer in plan.observers)
        first = observer.schedule.first_epoch(trainer.current_epoch)
        if self._missing(observer) is None and epochs is not None and first is not None and 0 < epochs <= first:
            plan.answers.setdefault(observer.name, []).append(
                f"makes no check in this run, which ends after {epochs} epochs: its first would come at the end of "
                f"epoch {first} (every_n_epochs={observer.schedule.every_n_epochs})"
            )

    def _say_answers(self, plans: Sequence[Plan]) -> None:
        for sentence in shared_answers(plans):
            self._notices.say(sentence)

    @contextmanager
    def _resting_if_it_fails(self, group: _Group, *, refusing: bool) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            group.resting = True
            if refusing and is_mistake(error):
                raise MisconfigurationException(str(error)) from users_failure(error)
            self._failures.record(f"preparing the checks of {group.names}", error)

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
            with self._failures.guard("a note on the held-out set"):  # where warnings are errors
                self._notices.warn(note)

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

    def _plan(self, group: _Group, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        heldout = group.heldout
        self.progress.phase("following the network", None)
        subject = together(lambda: bridge.subject(trainer, pl_module, heldout.network))
        plan = make_plan(subject, heldout, group.observers, self._failures)
        if plan.outputs.why_not is not None:
            self._notices.reasons.append(plan.outputs.why_not)
        for message in plan.messages:
            self._notices.say(message)
        _check_tags([*self._plans, plan])
        self._compare_heldout(plan.observers, heldout)
        group.plan = plan

    def _refuse_if_idle(self) -> None:
        """Raise if every observer is inactive for lack of layers: that cannot be what the user wants."""
        idle = [reason for plan in self._plans for reason in plan.idle]
        if any(plan.hidden for plan in self._plans):
            return  # there are layers that cannot be seen: no mistake of the user's
        if idle and not any(group.may_measure for group in self._groups) and len(idle) == len(self.observers):
            raise MisconfigurationException("; ".join(dict.fromkeys(idle)))

    def _compare_heldout(self, observers: list[Observer], heldout: HeldOut) -> None:
        changed = []
        for observer in observers:
            with self._failures.guard(f"the start of {observer.name}"):
                if not observer.same_heldout(heldout.fingerprint):
                    changed.append(observer.name)
        if changed:
            self._heldout_changed = True
            with self._failures.guard("a note on the held-out set"):  # where warnings are errors
                self._notices.warn(
                    f"the held-out set of {', '.join(changed)} is not the one that this run began with; "
                    "curves before and after this point are not comparable"
                )

    def tap(self, batch: Any) -> None:
        """Copy a validation batch into the held-out sets that cannot be read ahead."""
        for group in self._groups:
            if group.heldout.tapping and not group.resting:
                with self._failures.guard("copying a validation batch"):
                    group.heldout.tap(batch)

    # During training.

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, when: Moment) -> None:
        """Make the check of every observer that is due: one pass, values, pictures, then scalars."""
        if when.at_epoch_end and any(group.plan is None and not group.resting for group in self._groups):
            with self._attended(trainer):
                self._plan_late(trainer, pl_module, when)
        due = self._due(trainer, when)
        if not due:
            return
        with self._attended(trainer):
            if any(observer.schedule.is_needed for observer in due) or not self._must_wait(trainer):
                self._make_check(trainer, pl_module, when, due)
                self._say_watching(trainer, pl_module)

    def _make_check(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, when: Moment, due: list[Observer]
    ) -> None:
        watch = self._stopwatch
        watch.begin()
        with self._as_in_a_check(trainer, when.trigger):
            found = [one for plan in self._plans for one in self._observe(plan, due)]
            with self._failures.guard("remembering weights"):
                self._remember_weights(trainer, pl_module, when)
        with watch.part("solving"):
            self._conclude(found, when)
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
            self._log(trainer, pl_module, found, when)

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
            observer.schedule.needed = self._missing(observer) is not None
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
        """Plan for held-out sets that were copied from validation batches. A mistake does not end a run under way."""
        for group in self._groups:
            if group.plan is None and not group.resting and not bridge.uninitialised(pl_module):
                with self._resting_if_it_fails(group, refusing=False), self._as_in_a_check(trainer, when.trigger):
                    if not group.heldout.ready:
                        together(group.heldout.finish_tapping)
                    self._plan(group, trainer, pl_module)
                if group.plan is not None:
                    self._say_answers([group.plan])

    def _observe(self, plan: Plan, due: list[Observer]) -> Results:
        found: Results = []
        for part, mine in plan.passes([observer for observer in plan.observers if observer in due]):
            with self._failures.guard("a check"):
                with self._stopwatch.part("passes"):
                    usable = run_pass(part, mine, self._failures, bridge.gather_objects, self.progress)
                self.progress.phase("solving", sum(map(len, usable.values())))
                with self._stopwatch.part("solving"):
                    found += [(observer, self._compute(observer, usable[observer.name])) for observer in mine]
        return found

    def _compute(self, observer: Observer, layers: list[Any]) -> Findings:
        findings = Findings(observer.name, kind=observer.family)
        for layer in layers:
            with self._failures.guard(f"{observer.name}, layer {layer.name}"):
                result = together(lambda layer=layer: observer.compute(layer))  # type: ignore[misc]
                if result is not None:
                    findings.layers[layer.name] = result
            self.progress.advance()
        with self._failures.guard(f"the summary of {observer.name}"):
            findings.summary = together(lambda: observer.summarise(findings.values))
        return findings

    def _conclude(self, found: Results, when: Moment) -> None:
        check = {observer.name: findings for observer, findings in found}
        for observer, findings in found:
            with self._failures.guard(f"the conclusions of {observer.name}"):
                together(lambda o=observer, f=findings: o.conclude(f, check))  # type: ignore[misc]
        for observer, findings in found:
            self.latest[observer.name] = findings
            with self._failures.guard(f"the history of {observer.name}"):
                observer.remember(findings, when)

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule, found: Results, when: Moment) -> None:
        """The main process's numbers are logged on all, since Lightning exchanges them tag by tag."""
        own = overview_scalars(found) | self._own_scalars(when)
        here = [own, *(findings.scalars() for _, findings in found)]
        told, unlogged = trainer.strategy.broadcast((here, self._unlogged(found)))
        scalars = {tag: value for part in told for tag, value in part.items()}
        for observer, part in zip([self.observers[0], *(observer for observer, _ in found)], told, strict=True):
            observer.logged |= part
        self._tags |= scalars.keys()
        with self._failures.guard("logging"):
            bridge.write_scalars(trainer, pl_module, scalars, when, unlogged)

    def _unlogged(self, found: Results) -> set[str]:
        """Tags that loggers do not get: see :attr:`LayerObserver.details`."""
        tags = {"zz_convscope/heldout_changed"} if not self._heldout_changed else set()
        for observer, findings in found:
            tags |= findings.scalars().keys() - findings.scalars(observer.is_logged).keys()
        return tags

    def show_overview(self, trainer: pl.Trainer) -> None:
        """Draw the overview if a check was made since the last one. Alerts are known by then."""
        step, self._undrawn = self._undrawn, None
        if step is not None and any(observer.pictures for observer in self.observers):
            with self._failures.guard("the overview"):
                alerts = bridge.incidents_of(trainer)
                self._pictures.draw_overview(trainer, self.observers, self.layer_names(), alerts, step)

    def _keep_available(self, trainer: pl.Trainer) -> None:
        """Restore the values from before a resume, so that a monitor finds them at an epoch without a check too."""
        known = {tag: value for observer in self.observers for tag, value in observer.logged.items()}
        self._tags |= known.keys()
        bridge.keep_available(trainer, known)

    def _serve_monitors(self, trainer: pl.Trainer) -> None:
        """Plan extra checks for monitored values: a callback that monitors a missing value ends the run."""
        self._monitored = bridge.monitors(trainer)
        for observer in self.observers:
            key = self._missing(observer)
            if key is not None and not observer.schedule.on_start:
                self._notices.say(
                    f"{self._monitored[key]} monitors {key!r}, so {observer.name} makes a check at the "
                    "start although on_start=False"
                )

    def _missing(self, observer: Observer) -> str | None:
        """A value of the observer that somebody monitors and that it has not given yet."""
        own = (
            (f"{observer.name}/", "zz_convscope/", f"{OVERVIEW}/")
            if observer is self.observers[0]
            else f"{observer.name}/"
        )
        return next((key for key in self._monitored if key.startswith(own) and key not in observer.logged), None)

    def tell_incidents(self, trainer: pl.Trainer, step: int) -> None:
        """Write the alerts since the last check into the record."""
        self._recorder.tell_incidents(trainer, step)

    def record_logged(self, trainer: pl.Trainer, values: dict[str, float], when: Moment) -> None:
        """Write what was logged since the last validation, or epoch, into the record."""
        self._recorder.write_logged(trainer, values, when)

    def guard(self, what: str) -> AbstractContextManager[None]:
        """A block whose failure is logged once and counted, while training goes on."""
        return self._failures.guard(what)

    def close(self, trainer: pl.Trainer) -> None:
        """The fit is over."""
        self.show_overview(trainer)
        self._recorder.close(trainer)
        self._renamed.close()
        bridge.keep_from_main_process(trainer, self._tags)

    def layer_names(self) -> list[str]:
        """Names of all observed layers, in depth order."""
        layers = {layer.name: layer for plan in self._plans for chosen in plan.layers.values() for layer in chosen}
        return [layer.name for layer in sorted(layers.values(), key=lambda layer: layer.order)]

    # Weights that another callback puts in place for validation alone.

    def _remember_weights(self, trainer: pl.Trainer, pl_module: pl.LightningModule, when: Moment) -> None:
        if when.trigger == "validation" and not self._said_swapped and not bridge.replaces_weights(trainer):
            weights = dict(pl_module.named_parameters())
            names = [name for name, weight in weights.items() if weight.requires_grad] or list(weights)
            self._seen = {name: _local(weights[name]).clone() for name in {*names[:1], *names[-1:]}}

    def look_again(self, pl_module: pl.LightningModule) -> None:
        """Compare the weights before a training batch with those measured, by name, since all else may be changed."""
        seen, self._seen = self._seen, {}
        with self._failures.guard("comparing weights"):
            weights = {name: _local(weight) for name, weight in pl_module.named_parameters() if name in seen}
            if any(_differ(weights[name], seen[name]) for name in weights):
                self._say_swapped()

    def _say_swapped(self) -> None:
        self._said_swapped = True
        self._notices.warn(
            "training goes on with other weights than were measured after validation, so something changes "
            "them around a validation (a callback of averaged weights?): checks after validation measure the weights "
            "that it puts in place, checks at the start and at steps the weights in training"
        )

    def _must_wait(self, trainer: pl.Trainer) -> bool:
        """Return whether a check now would break ``max_overhead``; the main process's clock decides for all."""
        if self._stopwatch.max_overhead is None:
            return False
        wait = trainer.strategy.broadcast(self._stopwatch.wait())
        if wait > 0 and not self._said_waits:
            self._said_waits = True
            self._notices.say(
                f"the last check took {self._stopwatch.seconds:.2f} s; to keep checks under max_overhead="
                f"{self._stopwatch.max_overhead}, the next one waits for {wait:.1f} s more of training, and so will "
                "others"
            )
        return bool(wait > 0)

    def _own_scalars(self, when: Moment) -> dict[str, float]:
        own = {
            "zz_convscope/seconds": self._stopwatch.seconds,
            "zz_convscope/errors": float(bridge.largest(self._failures.count)),
        }
        own["zz_convscope/heldout_changed"] = float(self._heldout_changed)
        if when.trigger != "start":
            own["zz_convscope/overhead"] = self._stopwatch.overhead
        return {tag: value for tag, value in own.items() if value is not None}


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


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()  # a sharded one


def _differ(weights: torch.Tensor, measured: torch.Tensor) -> bool:
    """Return whether the same parameter has other values; a parameter of another kind is not the same."""
    same_kind = [weights.shape, weights.dtype, weights.device] == [measured.shape, measured.dtype, measured.device]
    # NaN is not equal to itself: weights that have become NaN are no others.
    return same_kind and not torch.equal(weights.nan_to_num(), measured.nan_to_num())
