"""One fit, seen by all observers at once: the held-out sets, the layers of each, and the shared check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from convscope.callbacks import bridge
from convscope.callbacks.cost import Cost
from convscope.callbacks.failures import Failures
from convscope.callbacks.findings import Findings, Moment
from convscope.callbacks.pictures import Pictures
from convscope.callbacks.plan import Plan, make_plan
from convscope.callbacks.run_pass import run_pass
from convscope.capture.heldout import HeldOut

if TYPE_CHECKING:
    from convscope.callbacks.base import LayerObserver


class Session:
    """Shared by the observers of one ``Trainer.fit``; made in ``setup``, gone in ``teardown``.

    Attributes:
        observers: The trainer's observers; the first acts for all.
        latest: The newest findings of each observer, by its name.
        checks: Number of checks made in this fit.
    """

    def __init__(self, observers: list[LayerObserver]) -> None:
        self.observers = observers
        self.latest: dict[str, Findings] = {}
        self.checks = 0
        self._failures = Failures(raising=any(o.on_error == "raise" for o in observers))
        self._cost = Cost(min((o.max_overhead for o in observers if o.max_overhead is not None), default=None))
        self._pictures = Pictures()
        self._plans: list[Plan] = []
        self._heldout_changed = False
        self._tags: set[str] = set()
        shared = HeldOut()
        groups: dict[tuple[Any, ...], tuple[HeldOut, list[LayerObserver]]] = {}
        for observer in observers:
            heldout = observer.heldout or shared
            groups.setdefault(heldout.identity, (heldout, []))[1].append(observer)
        self._groups = list(groups.values())

    # Before training: what the user gave wrongly is raised here, when nothing can be lost.

    def prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the held-out sets and plan the layers.

        Raises:
            MisconfigurationException: A held-out set, a layer entry or an argument does not fit this model.
        """
        if trainer.global_step == 0:
            for observer in self.observers:
                observer.restart()
        bridge.require_whole_networks(trainer)
        try:
            for heldout, _ in self._groups:
                self._read(heldout, trainer, pl_module)
            if self._can_plan(pl_module):
                self._make_plans(trainer, pl_module)
        except (ValueError, TypeError) as error:
            raise MisconfigurationException(str(error)) from error
        self._cost.start_of_training()

    def _can_plan(self, pl_module: pl.LightningModule) -> bool:
        if lazy := bridge.uninitialised(pl_module):
            rank_zero_info(
                f"convscope: {', '.join(lazy)} are created in the first forward pass, which is left to training; "
                "checks begin after that"
            )
        return not lazy and all(heldout.ready for heldout, _ in self._groups)

    def _read(self, heldout: HeldOut, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        default = bridge.validation_loader(trainer, pl_module) if heldout.source is None else None
        heldout.prepare(
            default,
            transfer=bridge.transfer(trainer),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            gather=bridge.gather_objects,
            most=heldout.batch_size if bridge.fast_dev_run(trainer) else None,
        )

    def _make_plans(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._plans = []
        for heldout, observers in self._groups:
            with bridge.quiet_logging(trainer):
                plan = make_plan(bridge.subject(trainer, pl_module, heldout.network), heldout, observers)
            self._plans.append(plan)
            for message in plan.messages:
                rank_zero_info(f"convscope: {message}")
            for observer in plan.observers:
                self._compare_heldout(observer, heldout)
        _check_tags(self._plans)

    def _compare_heldout(self, observer: LayerObserver, heldout: HeldOut) -> None:
        if not observer.same_heldout(heldout.fingerprint):
            self._heldout_changed = True
            rank_zero_warn(
                f"convscope: the held-out set of {observer.name!r} is not the one that this run began with; "
                "its curves before and after this point are not comparable"
            )

    def tap(self, batch: Any) -> None:
        """Copy a validation batch into the held-out sets that cannot be read ahead."""
        for heldout, _ in self._groups:
            if heldout.tapping:
                with self._failures.guard("copying a validation batch"):
                    heldout.tap(batch)

    # During training.

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, when: Moment) -> None:
        """Make the check of every observer that is due: one pass, values, pictures, then scalars."""
        active = [o for plan in self._plans for o in plan.observers] if self._plans else self.observers
        due = [o for o in active if o.schedule.is_due(when, trainer.global_step)]
        if not due or (when.trigger == "start" and not self._plans) or self._must_wait(trainer):
            return
        if not self._plans and bridge.uninitialised(pl_module):
            return
        found: list[tuple[LayerObserver, Findings]] = []
        self._cost.begin()
        with self._failures.guard("planning the checks"):
            self._plan_late(trainer, pl_module)
        for plan in self._plans:
            with self._failures.guard("a check"), bridge.quiet_logging(trainer):
                found += self._observe(plan, [o for o in plan.observers if o in due], when)
        with self._failures.guard("drawing pictures"):
            self._pictures.draw(trainer, found, when)
        self._cost.end()
        self.checks += 1
        for observer in due:
            observer.schedule.done(when, trainer.global_step)
            with self._failures.guard(f"the end of a check of {observer.name}"):
                observer.end()
        scalars = self._own_scalars(trainer, when)
        for _, findings in found:
            scalars |= findings.scalars()
        self._tags |= scalars.keys()
        with self._failures.guard("logging"):
            bridge.write_scalars(trainer, pl_module, scalars, when)

    def _plan_late(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._plans:
            return
        for heldout, _ in self._groups:
            if not heldout.ready:
                heldout.finish_tapping()
        self._make_plans(trainer, pl_module)

    def _observe(self, plan: Plan, due: list[LayerObserver], when: Moment) -> list[tuple[LayerObserver, Findings]]:
        if not due:
            return []
        usable = run_pass(plan, due, self._failures, bridge.gather_objects)
        found = [(observer, self._compute(observer, usable[observer.name])) for observer in due]
        for observer, findings in found:
            observer.remember(findings, when)
            self.latest[observer.name] = findings
        return found

    def _compute(self, observer: LayerObserver, layers: list[Any]) -> Findings:
        findings = Findings(observer.name)
        for layer in layers:
            with self._failures.guard(f"{observer.name}, layer {layer.name}"):
                result = observer.compute(layer)
                if result is not None:
                    findings.layers[layer.name] = result
        with self._failures.guard(f"the summary of {observer.name}"):
            findings.summary = observer.summarise(findings.values)
        return findings

    def close(self, trainer: pl.Trainer) -> None:
        """The fit is over."""
        bridge.keep_from_main_process(trainer, self._tags)

    def layer_names(self) -> list[str]:
        """Names of all observed layers, in depth order."""
        layers = {layer.name: layer for plan in self._plans for chosen in plan.layers.values() for layer in chosen}
        return [layer.name for layer in sorted(layers.values(), key=lambda layer: layer.order)]

    def _must_wait(self, trainer: pl.Trainer) -> bool:
        """Whether a check now would break ``max_overhead``; the main process's clock decides for all."""
        if self._cost.max_overhead is None:
            return False
        wait = trainer.strategy.broadcast(self._cost.wait())
        if wait > 0:
            rank_zero_info(
                f"convscope: the last check took {self._cost.seconds:.2f} s; to keep checks under max_overhead="
                f"{self._cost.max_overhead}, the next one waits for {wait:.1f} s more of training"
            )
        return bool(wait > 0)

    def _own_scalars(self, trainer: pl.Trainer, when: Moment) -> dict[str, float]:
        own = {"convscope/seconds": self._cost.seconds, "convscope/errors": float(self._failures.count)}
        own["convscope/heldout_changed"] = float(self._heldout_changed)
        if when.trigger != "start":
            own["convscope/overhead"] = self._cost.overhead
        mine = {tag: value for tag, value in own.items() if value is not None}
        shared: dict[str, float] = trainer.strategy.broadcast(mine)
        return shared


def _check_tags(plans: list[Plan]) -> None:
    """Two observers that would write to one tag are a mistake, found before anything is written."""
    seen: dict[str, str] = {}
    for observer in [observer for plan in plans for observer in plan.observers]:
        if observer.name in seen:
            raise ValueError(
                f"two callbacks would both log under {observer.name!r} ({seen[observer.name]} and "
                f"{type(observer).__name__}); give one of them another name, e.g. name='{observer.name}_2'"
            )
        seen[observer.name] = type(observer).__name__
