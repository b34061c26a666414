"""The one file that uses private parts of Lightning."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.tensorboard import SummaryWriter

from convscope.alerts.incidents import Incident
from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.engine.hierarchies import MisconfigurationException, both
from convscope.capture.network.modules import named_modules
from convscope.capture.observation import Subject
from convscope.capture.state.generators import preserved_generators
from convscope.capture.state.isolation import preserved_random_state
from convscope.loggers import Backend, backend_of, summary_writer
from convscope.loggers.folder import is_remote, logger_folder
from convscope.loggers.several import AllLoggers
from convscope.metrics._base import announce_sync

T = TypeVar("T")


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


def subject(trainer: pl.Trainer, pl_module: pl.LightningModule, network: str | None = None) -> Subject:
    """The user's network, or the part of it that ``network`` names, run as Lightning's validation would run it."""
    chosen = _network(pl_module) if network is None else _submodule(pl_module, network)
    return Subject(pl_module, _called(chosen), pl_module.device, trainer.precision_plugin.forward_context)


def caller(module: nn.Module) -> Callable[[Any], Any]:
    """Function that calls a network with held-out inputs: one tensor, a tuple of arguments, or a dict of them."""
    return _called(_network(module))


def _called(network: nn.Module) -> Callable[[Any], Any]:
    def forward(inputs: Any) -> Any:
        if isinstance(inputs, dict):
            return network(**inputs)
        return network(*inputs) if isinstance(inputs, tuple) else network(inputs)

    return forward


def _network(module: nn.Module) -> nn.Module:
    without = [nn.Module.forward, *(kind.forward for kind in both(pl.LightningModule))]
    if type(module).forward not in without:
        return module
    parts = _parts(module)
    if len(parts) == 1:
        return next(iter(parts.values()))
    raise MisconfigurationException(
        f"{type(module).__name__} has no forward() and {len(parts)} submodules with parameters "
        f"({', '.join(parts) or 'none'}), so it is not known which network to run on the held-out set; name one, "
        "HeldOut(network=...), or define forward(self, inputs) to return the logits"
    )


def _submodule(module: nn.Module, name: str) -> nn.Module:
    # The first of a name is the outermost: a compiled or sharded module is called through its wrapper.
    found = next((part for known, part in named_modules(module) if known == name), None)
    if found is None:
        raise MisconfigurationException(
            f"HeldOut(network={name!r}): {type(module).__name__} has no such submodule; it has "
            f"{', '.join(_parts(module)) or 'none with parameters'}"
        )
    return found


def _parts(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}


def network_name(module: pl.LightningModule, named: Iterable[str | None]) -> str:
    """Name of the network for the user: its class, or that of its only part with parameters if the user wrote that."""
    chosen = {_unwrapped(module if name is None else _submodule(module, name)) for name in named}
    found = next(iter(chosen)) if len(chosen) == 1 else module
    parts = [_unwrapped(part) for part in _parts(found).values()] if found is module else []
    own = [part for part in parts if not type(part).__module__.startswith("torch.nn.")]
    named_by = own[0] if len(parts) == len(own) == 1 else found
    return str(getattr(named_by, "original_name", type(named_by).__name__))  # the first: of TorchScript


def _unwrapped(module: nn.Module) -> nn.Module:
    return getattr(module, "_orig_mod", module)  # compiled


def gives_alerts(trainer: pl.Trainer) -> bool:
    """Return whether a callback of the trainer judges logged values."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return any(getattr(callback, "gives_alerts", False) for callback in callbacks)


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


def may_stand_twice(state_dict: T) -> T:
    """Decorator of a callback's ``state_dict``: two callbacks of one key are left to us to refuse.

    Lightning refuses them while the Trainer is made, in words that name neither, unless ``state_dict`` is its own; what
    a function wraps counts for that. Were it not to, its own refusal would come back.
    """
    state_dict.__wrapped__ = pl.Callback.state_dict  # type: ignore[attr-defined]
    return state_dict


@contextmanager
def quiet_logging(trainer: pl.Trainer) -> Iterator[None]:
    """Keep values that a forward logs during a check out of the user's metrics and loggers.

    ``self.log`` and ``self.log_dict`` of all this trainer's modules do nothing, ``self.logger`` writes nothing, and
    the trainer's metrics and its wish to stop are as before after the block.
    """
    connector = trainer._logger_connector
    metrics: list[dict[str, Any]] = [
        connector._callback_metrics,
        connector._logged_metrics,
        connector._progress_bar_metrics,
    ]
    saved = [dict(found) for found in metrics]
    loggers, should_stop = trainer.loggers, trainer.should_stop
    trainer.loggers = [_QuietLogger(logger) for logger in loggers]
    try:
        with _unlogged(trainer):
            yield
    finally:
        trainer.loggers, trainer.should_stop = loggers, should_stop
        for found, values in zip(metrics, saved, strict=True):
            found.clear()
            found.update(values)


@contextmanager
def _unlogged(trainer: pl.Trainer) -> Iterator[None]:
    # On the class, since a user's own log() may call super().log(), and a module may be held where no walk finds it.
    found = [getattr(sys.modules.get(name), "LightningModule", None) for name in _LIGHTNING_NAMES]
    owners = [owner for owner in found if owner is not None]
    originals = [(owner, name, getattr(owner, name)) for owner in owners for name in ("log", "log_dict")]
    try:
        for owner, name, original in originals:
            setattr(owner, name, _unless_of(trainer, original))
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


_LIGHTNING_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _unless_of(trainer: pl.Trainer, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def log(self: pl.LightningModule, *args: Any, **kwargs: Any) -> Any:
        return None if self._trainer is trainer or self._trainer is None else original(self, *args, **kwargs)

    return log


class _QuietLogger(DummyLogger):
    """A logger with the folders and names of another, whose calls do nothing."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    @property
    def save_dir(self) -> str | None:
        return getattr(self._logger, "save_dir", None)

    @property
    def name(self) -> Any:
        return self._logger.name

    @property
    def version(self) -> Any:
        return self._logger.version

    @property
    def log_dir(self) -> Any:
        return getattr(self._logger, "log_dir", None)

    @property
    def root_dir(self) -> Any:
        return getattr(self._logger, "root_dir", None)


def uninitialised(module: nn.Module) -> list[str]:
    """Names of parameters and buffers that a lazy module has yet to create, in its first forward pass."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in tensors if is_lazy(tensor)]


def processes() -> int:
    """Number of processes that train together."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if started else 1


def gather_objects(value: Any) -> list[Any]:
    """``value`` from every process, in rank order; with one process a list of one."""
    if processes() == 1:
        return [value]
    announce_sync()
    return gather_at_once(value)


def gather_integers(values: list[int]) -> list[list[int]]:
    """Equally many whole numbers from every process, in rank order: a small tensor, far cheaper than an object."""
    here = torch.tensor(values, device=_exchange_device())
    found = [torch.empty_like(here) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, here)
    return [row.tolist() for row in found]


def largest(value: int) -> int:
    """The largest of a whole number over all processes."""
    return value if processes() == 1 else max(row[0] for row in gather_integers([value]))


def _exchange_device() -> torch.device:
    if "nccl" in torch.distributed.get_backend() and "gloo" not in torch.distributed.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def gather_at_once(value: Any) -> list[Any]:
    """As :func:`gather_objects`, where all processes are known to be here."""
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def incidents_of(trainer: pl.Trainer) -> list[tuple[int, str]]:
    """Step at which each incident of the trainer's callbacks was opened, and its severity."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = [one for callback in callbacks for one in _listed(callback, "incidents") if isinstance(one, Incident)]
    return [(incident.opened.step, incident.severity) for incident in found]


def _listed(owner: Any, name: str) -> list[Any]:
    found = getattr(owner, name, None)
    return found if isinstance(found, list) else []


def write_scalars(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    scalars: dict[str, float],
    when: Moment,
    unlogged: Collection[str] = (),
) -> None:
    """Send scalars to the loggers, but for those ``unlogged``, and all to ``callback_metrics`` where the hook allows.

    At epoch ends ``log_dict`` does both. Elsewhere Lightning would write only every ``log_every_n_steps``, or
    at the end of the epoch, so the loggers are written to at once.
    """
    told = {tag: value for tag, value in scalars.items() if tag not in unlogged}
    if when.at_epoch_end:
        given: dict[str, Any] = {"batch_size": 1, "add_dataloader_idx": False, "sync_dist": trainer.world_size > 1}
        pl_module.log_dict(told, on_step=False, on_epoch=True, **given)
        # Without a detour through a metric for each, and an exchange between processes, which have the same values.
        put_into_metrics(trainer, {tag: value for tag, value in scalars.items() if tag in unlogged})
        return
    if when.trigger == "step":
        pl_module.log_dict(scalars, on_step=True, on_epoch=False, logger=False, batch_size=1)
    else:
        keep_available(trainer, scalars)
    log_to_each(trainer, {**told, "epoch": float(when.epoch)}, when.step)


def log_to_each(trainer: pl.Trainer, scalars: dict[str, float], step: int) -> None:
    """Send scalars to every logger at once. The error of one that fails is raised once all the others have them."""
    failed: list[Exception] = []
    for logger in trainer.loggers:
        try:
            logger.log_metrics(scalars, step=step)
            logger.save()
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]


def put_into_metrics(trainer: pl.Trainer, scalars: dict[str, float]) -> None:
    """Put values into ``callback_metrics`` alone, where everything that monitors a value finds them."""
    trainer._logger_connector._callback_metrics.update({tag: torch.tensor(value) for tag, value in scalars.items()})


def keep_available(trainer: pl.Trainer, scalars: dict[str, float]) -> None:
    """Put values into ``callback_metrics`` alone, where an epoch without a check leaves them.

    EarlyStopping, ModelCheckpoint and a plateau scheduler end the run if the value that they monitor is missing. The
    values are marked as not measured now: see :func:`is_kept`.
    """
    for tag, value in scalars.items():
        kept = torch.tensor(value)
        kept.convscope_kept = True  # type: ignore[attr-defined]
        trainer._logger_connector._callback_metrics[tag] = kept


def monitors(trainer: pl.Trainer) -> dict[str, str]:
    """Monitored tags of ``callback_metrics``, and their monitors: callbacks with a ``monitor``, plateau schedulers."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = {getattr(callback, "monitor", None): type(callback).__name__ for callback in callbacks}
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            found[config.monitor] = type(config.scheduler).__name__
    return {key: name for key, name in found.items() if isinstance(key, str)}


def is_kept(value: torch.Tensor) -> bool:
    """Return whether a value of ``callback_metrics`` was put there by :func:`keep_available`."""
    return getattr(value, "convscope_kept", False)


def keep_from_main_process(trainer: pl.Trainer, tags: Iterable[str]) -> None:
    """Remove values from the metrics that a spawned or forked process sends back at the end of a fit.

    Lightning sends ``callback_metrics`` through a pipe which the main process reads only once the others have ended.
    If they do not fit into it (64 KiB, about a hundred scalars), both wait for ever.
    """
    if isinstance(trainer.strategy.launcher, both(_MultiProcessingLauncher)):
        metrics = trainer.callback_metrics
        for tag in tags:
            metrics.pop(tag, None)


def callback_metrics(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    """``trainer.callback_metrics``, and in validation hooks also the values that the training epoch has logged so far.

    Lightning itself adds an epoch's training means only after that epoch's validation, so that there
    ``callback_metrics`` holds those of the epoch before.
    """
    found = dict(trainer.callback_metrics)
    training = trainer.fit_loop.epoch_loop._results.metrics(on_step=False)["callback"]
    return {**found, **training}


def tensorboard_writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """The TensorBoard writers of the run, on the main process, whatever the class of the logger that holds them."""
    if not trainer.is_global_zero or fast_dev_run(trainer):
        return []
    return [writer for logger in trainer.loggers if (writer := summary_writer(logger)) is not None]


def backends(trainer: pl.Trainer) -> dict[str, Backend]:
    """Backends of the run's loggers for histograms, pictures and texts, by the logger's name, on the main process."""
    if not trainer.is_global_zero or fast_dev_run(trainer):
        return {}
    found = [(logger, backend) for logger in trainer.loggers if (backend := backend_of(logger)) is not None]
    names = [type(logger).__name__ for logger, _ in found]
    unique = [n if names.count(n) == 1 else f"{n} {names[:place].count(n) + 1}" for place, n in enumerate(names)]
    return dict(zip(unique, (backend for _, backend in found), strict=True))


def write_text(trainer: pl.Trainer, tag: str, markdown: str, step: int) -> None:
    """Send Markdown to every logger that takes it. The error of one that fails is raised once the others have it."""
    failed: list[Exception] = []
    loggers = AllLoggers(backends(trainer), lambda name, error: failed.append(error))
    loggers.text(tag, markdown, step)
    if failed:
        raise failed[0]


def run_folder(trainer: pl.Trainer) -> Path:
    """Folder of the run's files: the first logger's, else ``default_root_dir``. Call it on every process at once.

    If neither is on this machine it is the current folder.
    """
    logger = trainer.loggers[0] if trainer.loggers else None
    folder = logger_folder(logger, trainer.default_root_dir)
    # Only the main process's logger knows the number of its run.
    return Path(trainer.strategy.broadcast("." if is_remote(folder) else str(folder)))


def writes_tensors(writer: Any) -> bool:
    """Return whether a TensorBoard writer accepts plain events: torch's own does, similar classes may not."""
    return isinstance(writer, SummaryWriter) and hasattr(writer, "_get_file_writer")


def record_folder(trainer: pl.Trainer, run: str) -> Path:
    """Folder of the record if no TensorBoard logger takes it; called on the main process alone.

    Raises:
        ValueError: if the run keeps nothing on this machine.
    """
    folder = logger_folder(trainer.loggers[0] if trainer.loggers else None, trainer.default_root_dir)
    if is_remote(folder):
        raise ValueError(f"{folder} is not on this machine; use a TensorBoardLogger there, or a local default_root_dir")
    return folder if trainer.loggers else folder / "convscope" / run


@contextmanager
def scalars_renamed(trainer: pl.Trainer, ours: Callable[[str], bool]) -> Iterator[None]:
    """Within the block, loggers with rules for names (MLflow) get scalars of ours under names that these allow.

    Lightning itself hands scalars to the loggers at the end of an epoch, all loggers the same: so ``log_metrics`` of
    such a logger is wrapped, on the object, and the user's own values pass through as they are.
    """
    wrapped = []
    for logger in trainer.loggers:
        backend = backend_of(logger)
        if backend is not None and type(backend).scalar_tag is not Backend.scalar_tag:
            logger.log_metrics = _renaming(logger.log_metrics, backend, ours)  # type: ignore[method-assign]
            wrapped.append(logger)
    try:
        yield
    finally:
        for logger in wrapped:
            vars(logger).pop("log_metrics", None)


def _renaming(log_metrics: Callable[..., Any], backend: Backend, ours: Callable[[str], bool]) -> Callable[..., Any]:
    def renamed(metrics: Any, *args: Any, **kwargs: Any) -> Any:
        mine = {tag for tag in metrics if ours(tag) or tag.startswith("alert/")}
        named = {backend.scalar_tag(tag) if tag in mine else tag: value for tag, value in metrics.items()}
        return log_metrics(named, *args, **kwargs)

    return renamed


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
