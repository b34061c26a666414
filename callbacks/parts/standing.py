"""Callbacks beside each other in a Trainer: those given twice, and those that a suite adds only by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from convscope.callbacks.engine.hierarchies import MisconfigurationException


def settle_observers(trainer: pl.Trainer, observers: list[Any]) -> list[Any]:
    """The observers of a trainer: the user's own replaces a suite's of the same class (or a base class) and name.

    Raises:
        MisconfigurationException: if an observer is still there twice, or two have one class and name.
    """
    kept = observers
    for one in [observer for observer in observers if observer.by_default]:
        own = [other for other in observers if isinstance(other, type(one)) and not other.by_default]
        own = [other for other in own if other.name == one.name]
        if own:
            kept = [observer for observer in kept if observer is not one]
            _take_out(trainer, [one], own[0])
    _refuse_twice(kept)
    return kept


def _refuse_twice(observers: list[Any]) -> None:
    labels = [_label(observer) for observer in observers]
    twice = list(dict.fromkeys(label for label in labels if labels.count(label) > 1))
    if twice:
        kind, name = twice[0]
        raise MisconfigurationException(
            f"Trainer(callbacks=...) has more than one of {', '.join(f'{kind} {name!r}' for kind, name in twice)}: "
            f"give a suite once, and to a second callback of a kind a name of its own, e.g. {kind}(name='{name}_2')"
        )


def _label(observer: Any) -> tuple[str, str]:
    return type(observer).__name__, observer.name


def settle_beside(trainer: pl.Trainer, callback: Any) -> None:
    """Keep one callback of a class of which a run has one: the user's own replaces a suite's, which is a default.

    Raises:
        MisconfigurationException: if the user gives more than one.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    alike: list[Any] = [one for one in callbacks if isinstance(one, _root(callback))]
    own = [one for one in alike if not one.by_default]
    if len(own) > 1:
        raise MisconfigurationException(
            f"Trainer(callbacks=...) has {len(own)} callbacks {type(own[0]).__name__}; give one"
        )
    superfluous = [one for one in alike if one.by_default][0 if own else 1 :]
    if superfluous:
        _take_out(trainer, superfluous, own[0] if own else None)


def _take_out(trainer: pl.Trainer, superfluous: Sequence[Any], own: Any) -> None:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    _replace(trainer, [one for one in callbacks if not any(one is other for other in superfluous)])
    if own is not None:
        rank_zero_info(f"convscope: your own {type(own).__name__} replaces the suite's")


def place_after(trainer: pl.Trainer, callback: Any, watched: type) -> None:
    """Move a callback behind those that it reads from, wherever the user has put it."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    places = [place for place, one in enumerate(callbacks) if isinstance(one, watched)]
    mine = next((place for place, one in enumerate(callbacks) if one is callback), None)
    if mine is not None and places and places[-1] > mine:
        _replace(
            trainer, [*callbacks[:mine], *callbacks[mine + 1 : places[-1] + 1], callback, *callbacks[places[-1] + 1 :]]
        )


def _replace(trainer: pl.Trainer, callbacks: list[Any]) -> None:
    # A new list, since Lightning iterates over the present one when it calls setup().
    trainer.callbacks = callbacks  # type: ignore[attr-defined]


def _root(callback: Any) -> type[Any]:
    """The class that declares that a run has one of it; a subclass of the user's counts as that class."""
    return next(kind for kind in reversed(type(callback).__mro__) if "by_default" in vars(kind))
