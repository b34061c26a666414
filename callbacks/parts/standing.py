"""Callbacks beside each other in a Trainer: what is there twice, and what a suite brings by default alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from convscope.callbacks.engine.hierarchies import MisconfigurationException


def refuse_twice(observers: Sequence[Any]) -> None:
    """Refuse observers that would log the same.

    Raises:
        MisconfigurationException: if an observer, or two of one class and name, are there more than once.
    """
    labels = [f"{type(observer).__name__} {observer.name!r}" for observer in observers]
    twice = list(dict.fromkeys(label for label in labels if labels.count(label) > 1))
    if not twice:
        return
    raise MisconfigurationException(
        f"Trainer(callbacks=...) has more than one of {', '.join(twice)}: give a suite once, and to a second callback "
        f"of a kind a name of its own, e.g. {twice[0].split()[0]}(name='{_name_of(observers, twice[0])}_2')"
    )


def _name_of(observers: Sequence[Any], label: str) -> str:
    return next(str(observer.name) for observer in observers if label.endswith(repr(observer.name)))


def settle_beside(trainer: pl.Trainer, callback: Any) -> None:
    """Of callbacks of which a run has one, the user's own is kept, and a suite's, which is there by default, taken out.

    Raises:
        MisconfigurationException: if the user gives more than one.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    alike = [one for one in callbacks if isinstance(one, _root(callback))]
    own = [one for one in alike if not one.by_default]
    if len(own) > 1:
        raise MisconfigurationException(
            f"Trainer(callbacks=...) has {len(own)} callbacks {type(own[0]).__name__}; give one"
        )
    superfluous = [one for one in alike if one.by_default][0 if own else 1 :]
    if superfluous:
        _replace(trainer, [one for one in callbacks if not any(one is other for other in superfluous)])
    if superfluous and own:
        rank_zero_info(f"convscope: your own {type(own[0]).__name__} takes the place of the suite's")


def place_after(trainer: pl.Trainer, callback: Any, watched: type) -> None:
    """Put a callback behind the ones that it reads from, wherever the user has put it."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    places = [place for place, one in enumerate(callbacks) if isinstance(one, watched)]
    mine = next((place for place, one in enumerate(callbacks) if one is callback), None)
    if mine is not None and places and places[-1] > mine:
        _replace(
            trainer, [*callbacks[:mine], *callbacks[mine + 1 : places[-1] + 1], callback, *callbacks[places[-1] + 1 :]]
        )


def _replace(trainer: pl.Trainer, callbacks: list[Any]) -> None:
    # Another list, since Lightning walks along the one that there is when it calls setup().
    trainer.callbacks = callbacks  # type: ignore[attr-defined]


def _root(callback: Any) -> type:
    """The class that says of itself that a run has one: a subclass of the user's is its like."""
    return next(kind for kind in reversed(type(callback).__mro__) if "by_default" in vars(kind))
