"""Base class of observing callbacks: shared arguments, Lightning's hooks, saved state."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch

from convscope._arguments import flag, one_of, share_or_none, tag_or_none, whole_number_or_none
from convscope.callbacks.engine.bridge import fitting, has_validation, may_stand_twice, moment, values_besides
from convscope.callbacks.engine.findings import Findings, History, LayerResult, MapSpec, Moment, Values, Vector
from convscope.callbacks.engine.hierarchies import Callback
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.engine.schedule import Schedule
from convscope.callbacks.engine.session import Session
from convscope.callbacks.parts.fresh_values import FreshValues
from convscope.callbacks.parts.standing import settle_observers
from convscope.capture.data.heldout import HeldOut, HeldOutLike, as_heldout
from convscope.capture.network.layers import LayerSpec, as_entries
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.capture.outputs.loss import Loss
from convscope.loggers import Backend
from convscope.loggers.record import Storable

log = logging.getLogger("convscope")

STATE_VERSION = 1
"""Version of the state that a checkpoint keeps; state of earlier versions, without a number, is read too."""


class LayerObserver(Callback, ABC):
    """Base of the callbacks that measure layers on a held-out set while a model trains.

    All observers of a trainer share one pass over the held-out set: the first of them in ``trainer.callbacks``
    makes the check for all that are due.

    Args:
        layers: Which layers: None for every conv unit, or globs, names, ``"re:..."``, module classes, callables.
        heldout: The held-out set, or what ``HeldOut(...)`` reads one from: a loader, a data set, tensors.
            Callbacks that name none share one, from the validation loader.
        every_n_epochs: A check at the end of every n-th epoch, after validation where there is one; 0 for none.
        every_n_train_steps: A check after every n-th optimizer step; 0 for none.
        on_start: A check before the first training step, so that curves begin at the untrained network.
        max_layers: Observe at most so many layers, evenly over depth; None for all.
        observe_at: ``"activation"`` for the output of a unit's norm and activation, ``"conv"`` for the
            convolution's own output.
        max_overhead: Stretch the interval between checks so that they take at most this share of training
            time, for example 0.05; None for no bound.
        on_error: ``"warn"`` logs a failed check once and goes on training; ``"raise"`` lets it through.
        pictures: Draw histograms, heat-maps and learning maps where the logger is TensorBoard.
        name: First part of the tags; needed where two callbacks of one kind observe the same layer.
        curves: ``"main"`` gives loggers the curves worth opening, the quantities that are not in :attr:`details`;
            ``"all"`` gives them every quantity. ``callback_metrics``, and with it rules and EarlyStopping, has all.

    Raises:
        ValueError: if an argument is out of range.
    """

    family: ClassVar[str]
    charts: ClassVar[dict[str, str]] = {}
    """Quantities that get a chart of all layers: ``{quantity: title}``."""
    maps: ClassVar[dict[str, MapSpec]] = {}
    """Quantities that get a learning map."""
    columns: ClassVar[dict[str, str]] = {}
    """Quantities that the printed table shows: ``{quantity: column title}``."""
    by_default = False
    """True if a suite added it: then one of its class and name that the user gives replaces it."""
    details: ClassVar[frozenset[str]] = frozenset()
    """Quantities that loggers get with ``curves="all"`` only: near copies of others, counts that are mostly zero."""
    overview: ClassVar[dict[str, Literal["highest", "lowest", "mean"]]] = {}
    """Quantities of which the overview has one curve over all layers: ``0_overview/<name>_<quantity>_<which>``."""

    def __init__(
        self,
        layers: LayerSpec = None,
        heldout: HeldOutLike = None,
        every_n_epochs: int = 1,
        every_n_train_steps: int = 0,
        on_start: bool = True,
        max_layers: int | None = 24,
        observe_at: Literal["activation", "conv"] = "activation",
        max_overhead: float | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        pictures: bool = True,
        name: str | None = None,
        curves: Literal["main", "all"] = "main",
    ) -> None:
        as_entries(layers)  # refuses what could never choose a layer; kept as it is, for the saved configuration
        self.layers, self.heldout = layers, as_heldout(heldout)
        self.max_layers = whole_number_or_none("max_layers", max_layers, "all layers")
        self.observe_at = one_of("observe_at", observe_at, ("activation", "conv"))
        self.max_overhead = share_or_none("max_overhead", max_overhead, "no bound", "a share of training time")
        self.on_error = one_of("on_error", on_error, ("warn", "raise"))
        self.pictures = flag("pictures", pictures)
        self.curves = one_of("curves", curves, ("main", "all"))
        self.name = tag_or_none("name", name, f"{self.default_name()}_2") or self.default_name()
        self.schedule = Schedule(every_n_epochs, every_n_train_steps, on_start)
        self.history = History()
        self.logged: dict[str, float] = {}  # every tag's last value
        self.session: Session | None = None
        self._fingerprint = ""
        self.run = ""  # name of the run's record where no logger has one

    # Settings that a subclass overrides.

    def default_name(self) -> str:
        """First part of the tags where the user gives no name."""
        return self.family

    @property
    def variant(self) -> str:
        """Word that distinguishes this callback from others of its kind in titles: ``taylor``, ``knn``, or its name."""
        return self.name

    def shown(self, distribution: Vector) -> Vector:
        """Values of ``distribution`` that a layer's histogram shows, one per filter."""
        return distribution

    def is_logged(self, quantity: str) -> bool:
        """Return whether loggers get a quantity, or only ``callback_metrics``."""
        return self.curves == "all" or quantity not in self.details

    @property
    def needs_gradient(self) -> bool:
        """Return whether the pass must have a backward for this callback."""
        return False

    @property
    def takes_nonfinite(self) -> bool:
        """Return whether the callback takes activations and gradients with NaN or infinite values.

        Others are not given them; where looking would wait for a device, they may be given some in the chunk that has
        the first, and what they find for that layer is not used.
        """
        return False

    @property
    def loss(self) -> Loss | None:
        """The user's own loss, for callbacks that need gradients."""
        return None

    @property
    def includes_output(self) -> bool:
        """Return whether the model's output is observed as the last layer."""
        return False

    @property
    def takes_output_as_logits(self) -> Literal[False, "too", "only"]:
        """Return whether the model's output is of use only as logits (or as the quantities that the targets are).

        ``"too"`` leaves the output out where it is not known to be such, ``"only"`` the callback.
        """
        return False

    @property
    def takes_targets_as(self) -> Literal["nothing", "inferred", "classes"]:
        """Kind of targets that the callback reads alone: nothing, the kind that they seem to be, or classes."""
        return "nothing"

    @property
    def needs_filters(self) -> bool:
        """Return whether there is nothing to measure where the model's output is the only layer."""
        return False

    def suits(self, layer: Layer) -> bool:
        """Return whether the callback can measure this layer."""
        return True

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        """One sentence why the callback cannot measure this task, None if it can.

        Args:
            heldout: The held-out set, with its targets.
            no_loss: Why the task has no loss to take a gradient of, None where it has one.

        Raises:
            ValueError: if the held-out set is faulty for this callback, which the user can fix before training.
        """
        return None

    def ready(self, plan: Plan) -> None:
        """Take in the samples and layers of a run's checks, for callbacks that need more than activations.

        Raises:
            ValueError: if an argument of the callback does not fit this plan. Any other error disables the callback.
        """

    @abstractmethod
    def begin(self, layers: list[Layer], samples: int) -> None:
        """Make new metrics for one check of these layers on ``samples`` held-out samples."""

    @abstractmethod
    def compute(self, layer: Layer) -> LayerResult | None:
        """One layer's numbers once the pass is over, None for nothing. Every process calls it for the same layers."""

    def drop_gradients(self) -> bool:
        """Forget this check's gradients, which could not be computed for all samples.

        Returns:
            True if there is something to measure without them.
        """
        return False

    def on_activation(self, record: Record) -> None:
        """Take in a layer's activations of one chunk."""

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        """Take in a layer's activations and gradients of one chunk."""

    @property
    def intervenes(self) -> bool:
        """Return whether the callback runs the network again after the shared pass, in :meth:`intervene`."""
        return False

    @property
    def takes_any_share(self) -> bool:
        """Return whether it does not matter which process runs which held-out sample.

        A callback that asks the held-out set for the samples that it was given needs its own process's share. Others
        may read the validation, whose shares are others, with several processes too:
        ``HeldOut(during_validation=True)``.
        """
        return False

    def intervene(self, layer: Layer) -> None:
        """Run further forward passes for one layer, as many on every process. Exchanges of data come first."""

    def summarise(self, values: Values) -> dict[str, float]:
        """Summaries over depth of ``values[quantity][layer]``, logged without a layer's name."""
        return {}

    def conclude(self, findings: Findings, check: Mapping[str, Findings]) -> None:
        """Add numbers to the findings that need those of all callbacks, on all held-out sets."""

    def draw(self, dashboard: Backend, when: Moment) -> None:
        """Write pictures and texts of the callback's own, on the main process, before :meth:`end`."""

    def arrays(self) -> Mapping[str, Storable]:
        """Further arrays, texts or PNG files for the record of the run, by name, on the main process; small ones."""
        return {}

    def end(self) -> None:
        """Release the check's metrics."""

    # State in checkpoints.

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name)

    @may_stand_twice
    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: see :meth:`state`. Where that fails, the checkpoint is saved without it."""
        try:
            return {"version": STATE_VERSION, **self.state()}
        except Exception as error:
            self._complain("saving its state failed, so a resumed run starts it over", error)
            return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint: see :meth:`restore`. Where that fails, the callback starts over."""
        try:
            _check_version(state_dict)
            self.restore(state_dict)
        except Exception as error:
            self.restart()
            self._complain("its state in the checkpoint cannot be restored, so it starts over", error)

    def state(self) -> dict[str, Any]:
        """Plain data and tensors from which :meth:`restore` goes on."""
        return {
            "history": self.history.state_dict(),
            "schedule": self.schedule.state_dict(),
            "fingerprint": self._fingerprint,
            "logged": dict(self.logged),
            "run": self.run,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.history.load_state_dict(state["history"])
        self.schedule.load_state_dict(state["schedule"])
        self._fingerprint = state["fingerprint"]
        self.logged = {str(tag): float(value) for tag, value in state.get("logged", {}).items()}
        self.run = str(state.get("run", ""))

    def _complain(self, what: str, error: Exception) -> None:
        if self.on_error == "raise":
            raise error
        log.error("convscope: %s: %s (%s: %s)", self.name, what, type(error).__name__, error, exc_info=error)

    def restart(self) -> None:
        """Forget an earlier run: called where training begins at its first step."""
        self.history = History()
        self.schedule.restart()
        self._fingerprint, self.logged, self.run = "", {}, ""

    def remember(self, findings: Findings, when: Moment) -> None:
        """Add a check to the history. Nothing is computed here: see :meth:`conclude`."""
        kept = {quantity: row for quantity, row in findings.values.items() if quantity in self.maps}
        self.history.append(when, kept)

    def same_heldout(self, fingerprint: str) -> bool:
        """Return whether the held-out set is that of the run so far; remember it."""
        known, self._fingerprint = self._fingerprint, fingerprint
        return known in ("", fingerprint)

    # Lightning's hooks. The first observer of the trainer acts for all.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        observers = [callback for callback in trainer.callbacks if isinstance(callback, LayerObserver)]  # type: ignore[attr-defined]
        observers = settle_observers(trainer, observers)
        if observers[0] is self:
            session, self._fresh = Session(observers), FreshValues()
            for observer in observers:
                observer.session = session

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if session := self._leads():
            session.prepare(trainer, pl_module)
            session.check(trainer, pl_module, moment(trainer, "start"))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if session := self._leads():
            # Here, and at the end of training, since alerts come after checks.
            session.show_overview(trainer)
            session.tell_incidents(trainer, moment(trainer, "step").step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if session := self._leads():
            session.look_again(pl_module)
            with session.guard("noting the learning rate"):
                self._fresh.note_learning_rate(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if session := self._leads():
            session.check(trainer, pl_module, moment(trainer, "step"))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (session := self._leads()) and fitting(trainer):
            session.expect(trainer, moment(trainer, "validation"))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if (session := self._leads()) and fitting(trainer) and dataloader_idx == 0:
            session.tap(batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (session := self._leads()) and fitting(trainer):
            session.check(trainer, pl_module, moment(trainer, "validation"))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (session := self._leads()) and fitting(trainer):
            self._record_logged(session, trainer, moment(trainer, "validation"))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        session = self._leads()
        if session and has_validation(trainer):
            session.tell_incidents(trainer, moment(trainer, "train").step)
        elif session:
            session.check(trainer, pl_module, moment(trainer, "train"))
            self._record_logged(session, trainer, moment(trainer, "train"))

    def _record_logged(self, session: Session, trainer: pl.Trainer, when: Moment) -> None:
        """Record what alerts judge at this moment, so that rules can be tried on the record."""
        with session.guard("recording what was logged"):
            values = self._fresh.on_this_process(trainer) | values_besides(trainer)
            session.record_logged(trainer, values, when)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # which Lightning leaves out then

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if session := self._leads():
            session.close(trainer)
        self.session = None
        try:
            self.end()
        except Exception as error:
            self._complain("its end failed", error)

    def _leads(self) -> Session | None:
        return self.session if self.session is not None and self.session.observers[0] is self else None


def _check_version(state: dict[str, Any]) -> None:
    """Refuse state of a newer version, whose meaning may differ; older state is read, with defaults for the rest."""
    version = state.get("version", 0)
    if version > STATE_VERSION:
        raise ValueError(f"state of version {version} is of a newer convscope; this one reads up to {STATE_VERSION}")
