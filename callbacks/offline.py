"""The callbacks on networks that are not being trained: a run's saved checkpoints, or one network as it is."""

from __future__ import annotations

import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from convscope._arguments import refuse
from convscope.callbacks.engine.bridge import first_loader
from convscope.callbacks.engine.hierarchies import Callback, both
from convscope.callbacks.parts.bare import BareModule, as_it_was, device_of
from convscope.callbacks.parts.checkpoints import Saved, read_checkpoint, saved_in
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.replayer import STATE, CheckpointReplayer, OneBatch, done_in, pass_over, training_nothing
from convscope.callbacks.suites import SuiteName, suite
from convscope.callbacks.table import LayerTable
from convscope.capture.data.heldout import HeldOut, HeldOutLike, as_heldout
from convscope.dashboard import Run, find_runs, read_run

Watching = SuiteName | Sequence[pl.Callback]


def replay(
    checkpoints: str | Path | Iterable[str | Path],
    module: pl.LightningModule | type[pl.LightningModule],
    data: Any = None,
    *,
    callbacks: Watching = "standard",
    folder: str | Path | None = None,
    accelerator: str = "auto",
    weights_only: bool = True,
    **trainer: Any,
) -> Run:
    """Make the checks of a run again, or for the first time, from its checkpoints in the order of their steps.

    The callbacks run as in training, in a ``Trainer.fit`` whose training steps are left out: each checkpoint's weights
    are put in place, the validation loop runs, and a check is made. Tags, pictures, alerts and record are those of a
    run; numbers that compare a check with the one before compare checkpoints. A checkpoint from before training
    (``global_step`` 0) gives the check of the start.

    Args:
        checkpoints: A folder with ``*.ckpt`` files of Lightning's, or their paths.
        module: The module that was trained, or its class, which is then built from the first checkpoint's
            ``hyper_parameters``. Its weights are those of the last checkpoint afterwards.
        data: A DataModule, or validation loaders; None if the module has ``val_dataloader``.
        callbacks: ``"light"``, ``"standard"``, ``"full"``, or callbacks.
        folder: Where TensorBoard's files and the record go; default ``replay`` in the checkpoints' folder. A replay
            that was interrupted goes on there.
        accelerator: As for a Trainer: ``"cpu"``, ``"cuda"``, ``"auto"``.
        weights_only: Read checkpoints without running code from them. False only for files that you trust.
        **trainer: Further arguments of the Trainer: ``precision``, ``limit_val_batches``.

    Returns:
        The record. ``run.folder`` is a folder for TensorBoard.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no checkpoint that fits the module, or ``folder`` holds another record. A checkpoint
            that cannot be read or does not fit is passed over with a warning while others can be used.
    """
    target = _folder(folder, checkpoints)
    found, broken = saved_in(checkpoints, weights_only, target)
    for path, why in broken.items():
        pass_over(broken, path, why)
    if not found:
        raise ValueError(f"no checkpoint can be used: {next(iter(broken.values()), 'there is none')}")
    _refuse_other_record(target)
    if found[-1].updates in done_in(target):
        return read_run(target)
    built = _built(module, found[0], weights_only) if isinstance(module, type) else module
    logger = TensorBoardLogger(target, name="", version="")
    watched = suite(callbacks) if isinstance(callbacks, str) else callbacks
    given = {"accelerator": accelerator, "devices": 1, "logger": logger, **trainer}
    _fit(built, data, [CheckpointReplayer(found, weights_only, target), *watched], target, given)
    return read_run(target)


def check(
    model: nn.Module, heldout: HeldOutLike = None, *, callbacks: Watching = "standard", folder: str | Path | None = None
) -> Run:
    """Make one check of a network as it is, without a Trainer of yours: in a notebook or a plain PyTorch loop.

    The network is left as it was: weights, buffers, modes, gradients, device, random streams.

    Args:
        model: The network, on the device on which it is to run.
        heldout: Samples with labels: :class:`~convscope.HeldOut`, a tuple of tensors, a ``DataLoader``, a ``Dataset``.
        callbacks: ``"light"``, ``"standard"``, ``"full"``, or callbacks without a held-out set of their own.
        folder: Where the record goes; None for a temporary folder that lasts as long as the result.

    Returns:
        The record, with one check: ``convscope.check(model, (x, y)).values("probe", "accuracy")``.

    Raises:
        ValueError: if ``model`` is no network, there are no samples, or no check could be made.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
        >>> run = check(net, (torch.randn(20, 1, 8, 8), torch.arange(20) % 2), callbacks="light")
        >>> run.layers, run.values("probe", "accuracy").shape
        (['0', 'output'], (1, 2))
    """
    if not isinstance(model, nn.Module):
        raise refuse("model", model, "a torch.nn.Module")
    given = as_heldout(heldout)
    if given is None or given.source is None:
        raise refuse("heldout", heldout, "samples with labels, for example check(model, (images, labels))")
    kept = tempfile.TemporaryDirectory(prefix="convscope-") if folder is None else None
    target = Path(kept.name if kept is not None else str(folder))
    watched = _ready_made(callbacks, given) if isinstance(callbacks, str) else _sharing(callbacks, given)
    with as_it_was(model):
        module = model if isinstance(model, both(pl.LightningModule)) else BareModule(model)
        _fit(module, _Nothing(), [_OneCheck(), *watched], target, {**_device(model), "logger": False})
    runs = find_runs(target) if target.exists() else {}
    if not runs:
        raise ValueError("no check was made; the log says why")
    run = Run(runs[max(runs)])
    run.__dict__["_temporary"] = kept
    return run


def _folder(folder: str | Path | None, checkpoints: Any) -> Path:
    """The folder that was given, or one beside the checkpoints."""
    if folder is not None:
        return Path(folder)
    source = Path(checkpoints if isinstance(checkpoints, str | Path) else next(iter(checkpoints)))
    return (source if source.is_dir() else source.parent) / "replay"


def _refuse_other_record(target: Path) -> None:
    if target.exists() and "." in find_runs(target) and not (target / STATE).exists():
        raise ValueError(f"folder={str(target)!r} holds the record of another run: give a new folder")


def _built(kind: type[pl.LightningModule], saved: Saved, weights_only: bool) -> pl.LightningModule:
    """A module from its class and the arguments that Lightning has saved."""
    saved_arguments = read_checkpoint(saved.path, weights_only, whole=False).get("hyper_parameters") or {}
    accepted = inspect.signature(kind).parameters
    several = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values())
    arguments = {name: value for name, value in saved_arguments.items() if several or name in accepted}
    try:
        return kind(**arguments)
    except Exception as error:
        raise ValueError(
            f"{kind.__name__} cannot be built from the checkpoint's hyper_parameters "
            f"({', '.join(saved_arguments) or 'there are none'}): {type(error).__name__}: {error}; give the module "
            "itself, built as for training"
        ) from error


def _ready_made(name: SuiteName, heldout: HeldOut) -> list[pl.Callback]:
    """A suite without its printed table: the result is returned, and "before training" need not be true."""
    return [one for one in suite(name, heldout, alerts=False) if not isinstance(one, LayerTable)]


def _sharing(callbacks: Sequence[pl.Callback], heldout: HeldOut) -> list[pl.Callback]:
    """Callbacks of the user's, with the held-out set if they have none."""
    for callback in callbacks:
        if isinstance(callback, LayerObserver) and callback.heldout is None:
            callback.heldout = heldout
    return list(callbacks)


def _device(model: nn.Module) -> dict[str, Any]:
    """Arguments of a Trainer for the device that a network is on."""
    device = device_of(model)
    if device.type == "cuda":
        return {"accelerator": "gpu", "devices": [device.index or 0]}
    return {"accelerator": device.type, "devices": 1}


class _Nothing:
    """Loaders of a fit that ends before its first batch."""

    def __iter__(self) -> Iterator[Any]:
        yield 0

    def __len__(self) -> int:
        return 1


class _OneCheck(Callback):
    """Ends a fit after the check of its start."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def _fit(module: pl.LightningModule, data: Any, callbacks: list[Any], folder: Path, given: dict[str, Any]) -> None:
    """A fit that trains nothing, with these callbacks."""
    owner = data if hasattr(data, "val_dataloader") else module if data is None else None
    loaders: dict[str, Any] = {"datamodule": data} if owner is data else {}
    if owner is None:
        loaders = {"train_dataloaders": OneBatch(lambda: first_loader(data)), "val_dataloaders": data}
    if isinstance(data, _Nothing):
        loaders, given = {"train_dataloaders": data}, {"limit_val_batches": 0, **given}
    with training_nothing(module, owner), _quiet():
        trainer = pl.Trainer(
            callbacks=callbacks, max_epochs=-1, limit_train_batches=1, num_sanity_val_steps=0, log_every_n_steps=1,
            default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, **given,
        )  # fmt: skip
        trainer.fit(module, **loaders)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning says of a training run: which devices there are, that there is no optimizer."""
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        lightning.setLevel(level)
