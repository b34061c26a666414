"""Checks of constructor arguments, with one wording: ``name=value: give …``.

Each function returns the value, so that a constructor reads as a list of assignments. What is accepted is plain: whole
numbers are ``int`` (NumPy's too, never ``bool`` or ``2.0``), flags are ``bool``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")


def refuse(name: str, value: Any, accepted: str) -> ValueError:
    """The error of an argument that is not accepted; ``name`` may be ``"HeldOut(size"``, closed by the wording."""
    close = ")" if "(" in name else ""
    return ValueError(f"{name}={_shown(value)}{close}: give {accepted}")


def whole_number(name: str, value: Any, accepted: str = "a whole number", *, least: int = 1) -> int:
    """An integer of at least ``least``.

    Raises:
        ValueError: if it is something else; for ``1e4`` the message suggests ``10000``.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    meant = f" (such as {int(value)})" if isinstance(value, float) and value.is_integer() and value >= least else ""
    raise refuse(name, value, f"{accepted}, at least {least}{meant}")


def whole_number_or_none(
    name: str, value: Any, none: str, accepted: str = "a whole number", *, least: int = 1
) -> int | None:
    """An integer of at least ``least``, or None, which means ``none`` (``"all layers"``).

    Raises:
        ValueError: if it is neither.
    """
    if value is None:
        return None
    try:
        return whole_number(name, value, accepted, least=least)
    except ValueError as error:
        raise ValueError(f"{error}, or None for {none}") from None


def share(name: str, value: Any, accepted: str = "a share", *, below_one: bool = False) -> float:
    """A number in (0, 1], or in (0, 1) with ``below_one``.

    Raises:
        ValueError: if it is something else.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if number and (0 < value < 1 or (value == 1 and not below_one)):
        return float(value)
    raise refuse(name, value, f"{accepted} in (0, 1{')' if below_one else ']'}")


def one_of(name: str, value: T, accepted: Collection[Any]) -> T:
    """One of a few values.

    Raises:
        ValueError: if it is none of them.
    """
    try:
        known = value in accepted and not isinstance(value, bool)
    except TypeError:  # not hashable
        known = False
    if known:
        return value
    raise refuse(name, value, f"one of {', '.join(map(repr, accepted))}")


def flag(name: str, value: Any) -> bool:
    """True or False; a text such as ``"no"`` would count as true.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(value, bool):
        return value
    raise refuse(name, value, "True or False")


def callable_or_none(name: str, value: Callable[..., T] | None, call: str, none: str) -> Callable[..., T] | None:
    """A function that is called as ``call`` says (``"loss(outputs, targets)"``), or None, which means ``none``.

    Raises:
        ValueError: if it cannot be called.
    """
    if value is None or callable(value):
        return value
    raise refuse(name, value, f"a callable, called as {call}, or None {none}")


def text_or_none(name: str, value: Any, accepted: str) -> str | None:
    """A text that is not empty, or None.

    Raises:
        ValueError: if it is something else.
    """
    if value is None or (isinstance(value, str) and value):
        return value
    raise refuse(name, value, accepted)


def _shown(value: Any) -> str:
    """The value as it was written, cut where it is long: a tensor or a data set is named by its type."""
    shown = repr(value)
    return shown if len(shown) <= 80 and "\n" not in shown else f"<{type(value).__name__}>"
