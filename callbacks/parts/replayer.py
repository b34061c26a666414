"""A fit that trains nothing: in place of training steps it takes in the weights of one checkpoint after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from convscope.callbacks.engine.bridge import first_loader, place_at
from convscope.callbacks.engine.hierarchies import Callback
from convscope.callbacks.parts.checkpoints import Saved, read_checkpoint, refuse_other_weights

log = logging.getLogger("convscope")

STATE = "replay.pt"
"""File in the folder of a replay with what its callbacks need to go on."""

_TRAINING_HOOKS = (
    "on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end", "on_train_batch_start",
    "on_train_batch_end",
)  # fmt: skip


class CheckpointReplayer(Callback):
    """Gives a module the weights of each checkpoint in turn, each for one epoch of a fit; stands first of all.

    Args:
        checkpoints: In the order of their steps.
        weights_only: As for ``torch.load``.
        folder: Where what is needed to go on is kept after each checkpoint; None to keep nothing.
    """

    def __init__(self, checkpoints: list[Saved], weights_only: bool, folder: Path | None) -> None:
        self.broken: dict[Path, str] = {}
        self.replayed: list[int] = []
        self._waiting, self._weights_only = list(checkpoints), weights_only
        self._kept = folder and folder / STATE
        self._next: tuple[Saved, dict[str, Any]] | None = None
        self._last: Saved | None = None  # of an earlier replay, which this one continues
        from tqdm.auto import tqdm  # here, since it warns where a notebook lacks its widgets

        self._bar = tqdm(total=len(checkpoints), desc="replay", unit="checkpoint", disable=None)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._kept is not None and self._kept.exists():
            self._restore(trainer, self._kept)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._last is not None:
            # As when a run is resumed: observers find the weights of their last check.
            self._waiting.insert(0, self._last)
        self._look_ahead(trainer, pl_module)
        if self._next is None:
            # Nothing is left, or nothing can be used: the weights that are in place now must not be checked.
            raise ValueError(f"no checkpoint can be used: {next(iter(self.broken.values()), 'all are done')}")
        saved = self._take(trainer, pl_module)
        if saved.updates == 0 or saved is self._last:
            self._look_ahead(trainer, pl_module)  # observers make their check of the start in this same hook

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._keep(trainer)
        self._take(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look_ahead(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._keep(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._bar.close()

    def _take(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Saved:
        """Put the next weights in place, and let the loops stand where they were saved."""
        assert self._next is not None
        saved, weights = self._next
        pl_module.load_state_dict(weights)
        place_at(trainer, saved.epoch, saved.step, saved.updates)
        if saved.updates not in self.replayed:
            self.replayed.append(saved.updates)
            self._bar.update()
        return saved

    def _look_ahead(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the next checkpoint that can be used; the fit ends if there is none."""
        self._next = None
        while self._waiting and self._next is None:
            saved = self._waiting.pop(0)
            try:
                content = read_checkpoint(saved.path, self._weights_only)
                refuse_other_weights(pl_module, content["state_dict"], saved.path)
                pl_module.on_load_checkpoint(content)
                self._next = saved, content["state_dict"]
            except Exception as error:
                pass_over(self.broken, saved.path, str(error))
        trainer.should_stop = self._next is None

    # To go on after an interruption.

    def _keep(self, trainer: pl.Trainer) -> None:
        """Keep the state of the other callbacks as of the checkpoints that are done."""
        if self._kept is not None and self.replayed:
            states = [(type(one).__name__, one.state_dict()) for one in _others(trainer, self)]
            part = self._kept.with_suffix(".part")
            torch.save({"done": self.replayed, "states": states}, part)
            part.replace(self._kept)

    def _restore(self, trainer: pl.Trainer, path: Path) -> None:
        content = torch.load(path, weights_only=True)
        others = _others(trainer, self)
        if [name for name, _ in content["states"]] != [type(one).__name__ for one in others]:
            raise ValueError(f"{path.parent} holds a replay with other callbacks: give another folder")
        for one, (_, state) in zip(others, content["states"], strict=True):
            one.load_state_dict(state)
        self.replayed = list(content["done"])
        self._bar.update(len(self.replayed))
        done = max(self.replayed, default=-1)
        self._last = next((saved for saved in self._waiting if saved.updates == done), None)
        self._waiting = [saved for saved in self._waiting if saved.updates > done]


def pass_over(broken: dict[Path, str], path: Path, why: str) -> None:
    """Report a checkpoint that cannot be used."""
    broken[path] = why
    log.warning("convscope: a checkpoint is passed over: %s", why)


def _others(trainer: pl.Trainer, replayer: Callback) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if callback is not replayer]


@contextmanager
def training_nothing(module: Any, owner: Any) -> Iterator[None]:
    """Let a fit of this module, within the block, leave it as it is: no training step, no optimizer, no hooks.

    Args:
        module: The module.
        owner: The DataModule or module whose training loader the fit asks for; it gets the first validation batch.
    """
    ours: list[tuple[Any, str, Any]] = [
        (module, "training_step", lambda *args, **kwargs: None),
        (module, "configure_optimizers", lambda: None),
        (module, "configure_callbacks", list),
        (module, "_automatic_optimization", False),
        *((module, name, _nothing) for name in _TRAINING_HOOKS),
    ]
    if owner is not None:
        ours.append((owner, "train_dataloader", lambda: OneBatch(lambda: first_loader(owner.val_dataloader()))))
    before = [(place, name, vars(place).get(name, _ABSENT)) for place, name, _ in ours]
    for place, name, value in ours:
        object.__setattr__(place, name, value)
    try:
        yield
    finally:
        for place, name, value in before:
            if value is _ABSENT:
                object.__delattr__(place, name)
            else:
                object.__setattr__(place, name, value)


_ABSENT = object()


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def done_in(folder: Path) -> list[int]:
    """Optimizer steps of the checkpoints that a replay in this folder has done."""
    path = folder / STATE
    return list(torch.load(path, weights_only=True)["done"]) if path.exists() else []


class OneBatch:
    """A loader with a single batch, the first of another loader: what a fit that trains nothing asks for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        yield next(iter(self._make()))

    def __len__(self) -> int:
        return 1
