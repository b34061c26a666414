"""Checks of a held-out set's arguments: the logits, the classes, the ignored label, the adapter."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any, Literal

import torch

from convscope._arguments import different, refuse, whole_number
from convscope.capture.data.batches import Adapter, adapt_batch
from convscope.capture.errors import UserError
from convscope.capture.outputs.parts import Selector, describe

_LEAST = -(2**63)  # least label: any int64


def check_logits(logits: Any) -> Selector | Literal[False] | None:
    """The argument ``logits`` as it was given, if it is valid.

    Raises:
        ValueError: if it is neither a name, a place, a callable, False nor None.
    """
    named = isinstance(logits, str) and logits != ""
    if logits is None or logits is False or named or callable(logits):
        return logits  # type: ignore[no-any-return]
    if isinstance(logits, Integral) and not isinstance(logits, bool):
        return int(logits)
    raise refuse(
        "HeldOut(logits",
        logits,
        "a name such as 'logits', a place such as 1, a callable(output) -> tensor, or False where the model returns "
        "none",
    )


def check_classes(classes: Any) -> int | tuple[int, ...] | None:
    """The argument ``classes``: number of classes, or the labels that are classes, sorted.

    Raises:
        ValueError: if it is neither a whole number of at least 2 nor a list of at least two different labels.
    """
    accepted = "a whole number of classes, at least 2, or a list of different labels"
    if isinstance(classes, Iterable) and not isinstance(classes, str):
        try:
            labels = [whole_number("classes", label, least=_LEAST) for label in classes]
            return tuple(sorted(different("classes", labels, "labels", least=2)))
        except ValueError:
            raise refuse("HeldOut(classes", classes, accepted) from None
    try:
        return None if classes is None else whole_number("classes", classes, least=2)
    except ValueError:
        raise refuse("HeldOut(classes", classes, accepted) from None


def check_ignore_index(ignore_index: Any) -> int | None:
    """The argument ``ignore_index``: the label that is not counted.

    Raises:
        ValueError: if it is not a whole number.
    """
    try:
        return None if ignore_index is None else whole_number("ignore_index", ignore_index, least=_LEAST)
    except ValueError:
        raise refuse("HeldOut(ignore_index", ignore_index, "one label, a whole number such as 255, or None") from None


def adapter_text(adapter: Adapter) -> str:
    """The argument as the user gave it, for messages."""
    return f"HeldOut(adapter={getattr(adapter, '__name__', type(adapter).__name__)})"


def pair(adapter: Adapter, batch: Any) -> tuple[Any, torch.Tensor | None]:
    """Inputs and targets that an adapter makes of a batch.

    Raises:
        ValueError: if the adapter fails, or returns something other than inputs and targets.
    """
    name = adapter_text(adapter)
    try:
        found = adapter(batch)
    except Exception as error:
        if adapter is adapt_batch:
            raise
        raise UserError(
            f"{name} failed on a batch ({type(error).__name__}: {error}); give a callable(batch) -> (inputs, targets) "
            "that takes the loader's batches"
        ) from error
    if not isinstance(found, tuple | list) or len(found) != 2:
        what = f"a {type(found).__name__} of {len(found)}" if isinstance(found, tuple | list) else describe(found)
        raise ValueError(
            f"{name} returned {what}; it must return two things, (inputs, targets), with None for targets where there "
            "are none"
        )
    inputs, targets = found
    if targets is not None and not (isinstance(targets, torch.Tensor) and targets.dim() > 0):
        if adapter is adapt_batch:
            raise ValueError(
                f"cannot tell inputs from targets in {describe(batch)}; pass HeldOut(adapter=lambda batch: (inputs, "
                "targets))"
            )
        raise ValueError(
            f"{name} returned {describe(targets)} as targets; they must be a tensor (N, ...) with a row per "
            "sample, or None"
        )
    if inputs is None:
        raise ValueError(f"{name} returned no inputs; it must return (inputs, targets)")
    return inputs, targets
