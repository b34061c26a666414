"""The state of a trainer: what it does now, which step it is, what it validates on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from convscope.alerts.incidents import Incident
from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.engine.hierarchies import MisconfigurationException
from convscope.capture.state.generators import preserved_generators
from convscope.capture.state.isolation import preserved_random_state


def fitting(trainer: pl.Trainer) -> bool:
    """Return whether this is a ``fit`` past its sanity check."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def fast_dev_run(trainer: pl.Trainer) -> bool:
    """Return whether this is a trial of a few batches, whose loggers are dummies."""
    return bool(trainer.__dict__.get("fast_dev_run"))


def has_validation(trainer: pl.Trainer) -> bool:
    """Return whether the fit has a validation loop, at whose end checks are made."""
    return trainer.fit_loop.epoch_loop.val_loop is not None and trainer.enable_validation


def moment(trainer: pl.Trainer, trigger: str) -> Moment:
    """The present, on the step axis that ``self.log`` writes to: batches that step any of the optimizers.

    The loop's counter is one ahead in ``on_train_epoch_end``, where Lightning itself takes one off before it logs.
    """
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    return Moment(trigger, trainer.current_epoch, max(step - 1, 0) if trigger == "train" else step)


def gives_alerts(trainer: pl.Trainer) -> bool:
    """Return whether a callback of the trainer judges logged values."""
    return _judge(trainer) is not None


def values_besides(trainer: pl.Trainer) -> dict[str, float]:
    """What rules see besides logged values, by tag; nothing where no callback of the trainer judges."""
    judge = _judge(trainer)
    return {} if judge is None else dict(judge.values_besides(trainer))


def _judge(trainer: pl.Trainer) -> Any:
    """The first callback that judges logged values, None where there is none."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if getattr(callback, "gives_alerts", False)), None)


def transfer(trainer: pl.Trainer) -> Callable[[Any], Any]:
    """Lightning's steps on a validation batch before ``validation_step``: precision, device, the user's hooks."""

    def move(batch: Any) -> Any:
        with as_validation(trainer):
            return trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))

    return move


@contextmanager
def as_validation(trainer: pl.Trainer) -> Iterator[None]:
    """Have the trainer say, within the block, that it validates, as it does at the end of an epoch.

    A forward, or a hook that transfers batches, may ask ``trainer.training`` or ``trainer.validating``.
    """
    stage = trainer.state.stage
    trainer.validating = True  # by the trainer's own setter: there are two RunningStages, one an import name
    try:
        yield
    finally:
        trainer.state.stage = stage


@contextmanager
def weights_in_training(trainer: pl.Trainer, leader: Any, trigger: str) -> Iterator[None]:
    """Give the module, within the block, the weights that are being trained, not their average.

    Lightning's ``WeightAveraging`` puts the average in place as a validation epoch begins and takes it out as it ends,
    so that it is in place at a check in between if that callback comes after ``leader``, which makes the check.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    later = callbacks[callbacks.index(leader) :] if trigger == "validation" else []
    averaging = [callback for callback in later if _averages(callback)]
    for callback in reversed(averaging):
        callback._swap_models(trainer.lightning_module)
    try:
        yield
    finally:
        for callback in averaging:
            callback._swap_models(trainer.lightning_module)


def _averages(callback: Any) -> bool:
    # By name: the class exists twice, in lightning.pytorch and in pytorch_lightning.
    named = any(kind.__name__ == "WeightAveraging" for kind in type(callback).__mro__)
    return named and hasattr(callback, "_swap_models") and callback._average_model is not None


def replaces_weights(trainer: pl.Trainer) -> bool:
    """Return whether a callback gives the module other weights as an epoch begins: Lightning's SWA, a replay."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    kinds = {kind.__name__ for callback in callbacks for kind in type(callback).__mro__}
    return bool(kinds & {"StochasticWeightAveraging", "CheckpointReplayer"})


def validation_loader(trainer: pl.Trainer, pl_module: pl.LightningModule, seed: int) -> Any:
    """Default source of held-out samples; None if there is nothing.

    ``heldout_dataloader()`` of the DataModule or module, else the first validation loader, else (where the
    validation loop is switched off) the result of ``val_dataloader()``. A method of the user's that is called for this
    leaves random streams as they were.
    """
    owners: list[Any] = [getattr(trainer, "datamodule", None), pl_module]
    with preserved_random_state(seed), preserved_generators(*owners):
        for owner in owners:
            if hasattr(owner, "heldout_dataloader"):
                return owner.heldout_dataloader()
        loop = trainer.fit_loop.epoch_loop.val_loop
        loaders = trainer.val_dataloaders
        if loaders is None and loop._data_source.is_defined():
            loaders = loop._data_source.dataloader()
    combined = loop._combined_loader
    if combined is not None and combined._mode != "sequential":
        return combined  # its batches hold a batch of each loader: they are what validation_step sees
    return first_loader(loaders)


def first_loader(loaders: Any) -> Any:
    """The first of several loaders, which Lightning accepts in nested lists and dicts."""
    if hasattr(loaders, "iterables") and getattr(loaders, "_mode", None) == "sequential":  # a CombinedLoader
        return first_loader(loaders.iterables)
    while isinstance(loaders, dict | list | tuple):
        loaders = next(iter(loaders.values() if isinstance(loaders, dict) else loaders), None)
    return loaders


def require_whole_networks(trainer: pl.Trainer) -> None:
    """Refuse strategies in which several processes run one network together.

    Held-out samples are divided among all processes, which is right only where each runs the network on its own.

    Raises:
        MisconfigurationException: if several processes run one network together (tensor parallelism).
    """
    found: dict[str, Any] = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    replicas = found.get("num_replicas", trainer.world_size)
    if replicas != trainer.world_size:
        raise MisconfigurationException(
            f"convscope cannot observe tensor parallelism yet: {trainer.world_size} processes run {replicas} networks, "
            "and held-out samples are divided among processes; use tensor_parallel_size=1"
        )


def place_at(trainer: pl.Trainer, epoch: int, step: int, updates: int) -> None:
    """Let a fit's loops stand where a checkpoint was saved: for a replay, which trains nothing.

    Args:
        trainer: The trainer, in the hooks of a fit before its first training batch.
        epoch: Epoch, counted from 0.
        step: Batches that stepped before, the axis of ``self.log``.
        updates: Optimizer steps before, ``trainer.global_step``.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = epoch + 1
    progress.processed = progress.completed = epoch
    trainer.fit_loop.epoch_loop._batches_that_stepped = step
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = updates


T = TypeVar("T")


def may_stand_twice(state_dict: T) -> T:
    """Decorator of a callback's ``state_dict``: two callbacks of one key are left to us to refuse.

    Lightning refuses them while the Trainer is made, in words that name neither, unless ``state_dict`` is its own; what
    a function wraps counts for that. Were it not to, its own refusal would come back.
    """
    state_dict.__wrapped__ = pl.Callback.state_dict  # type: ignore[attr-defined]
    return state_dict


def incidents_of(trainer: pl.Trainer) -> list[tuple[int, str]]:
    """Step at which each incident of the trainer's callbacks was opened, and its severity."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = [one for callback in callbacks for one in _listed(callback, "incidents") if isinstance(one, Incident)]
    return [(incident.opened.step, incident.severity) for incident in found]


def _listed(owner: Any, name: str) -> list[Any]:
    found = getattr(owner, name, None)
    return found if isinstance(found, list) else []
