"""Checks of constructor arguments, with one wording: ``name=value: give …``.

Each function returns the value, so that a constructor reads as a list of assignments. What is accepted is plain: whole
numbers are ``int`` (NumPy's too, never ``bool`` or ``2.0``), flags are ``bool``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")


def refuse(name: str, value: Any, accepted: str) -> ValueError:
    """The error of an invalid argument; a parenthesis in ``name`` (``"HeldOut(size"``) is closed in the message."""
    close = ")" if "(" in name else ""
    return ValueError(f"{name}={_shown(value)}{close}: give {accepted}")


def whole_number(
    name: str, value: Any, accepted: str = "a whole number", *, least: int = 1, most: int | None = None
) -> int:
    """An integer of at least ``least``, and at most ``most`` if that is given.

    Raises:
        ValueError: if it is something else; for ``1e4`` the message suggests ``10000``.
    """
    if _is_whole(value) and least <= value and (most is None or value <= most):
        return int(value)
    bound = f"at least {least}" + ("" if most is None else f" and at most {most}")
    raise refuse(name, value, f"{accepted}, {bound}{_meant(value, least)}")


def whole_number_or_zero(name: str, value: Any, zero: str, accepted: str = "a whole number") -> int:
    """An integer of at least 1, or 0, which means ``zero`` (``"no such check"``).

    Raises:
        ValueError: if it is neither.
    """
    if _is_whole(value) and value >= 0:
        return int(value)
    raise refuse(name, value, f"{accepted}, at least 1{_meant(value, 1)}, or 0 for {zero}")


def whole_number_or_none(
    name: str, value: Any, none: str, accepted: str = "a whole number", *, least: int = 1
) -> int | None:
    """An integer of at least ``least``, or None, which means ``none`` (``"all layers"``).

    Raises:
        ValueError: if it is neither.
    """
    return _or_none(value, f"for {none}", lambda: whole_number(name, value, accepted, least=least))


def number(
    name: str, value: Any, accepted: str = "a finite number", *, least: float = -math.inf, above: bool = False
) -> float:
    """A finite number of at least ``least``, or above it.

    Raises:
        ValueError: if it is something else.
    """
    if _is_number(value) and math.isfinite(value) and (value > least or (value == least and not above)):
        return float(value)
    bound = "" if least == -math.inf else f", {'above' if above else 'at least'} {least:g}"
    raise refuse(name, value, f"{accepted}{bound}")


def numbers(
    name: str, values: Any, accepted: str, *, least: float = -math.inf, above: bool = False
) -> tuple[float, ...]:
    """A list of finite numbers, at least one, each of at least ``least``, or above it.

    Raises:
        ValueError: if it is something else.
    """
    found = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else ()
    try:
        if found:
            return tuple(number(name, value, least=least, above=above) for value in found)
    except ValueError:
        pass  # the whole list is shown below
    bound = "" if least == -math.inf else f", {'above' if above else 'at least'} {least:g}"
    raise refuse(name, values, f"{accepted}, at least one, each a finite number{bound}")


def share(name: str, value: Any, accepted: str = "a share", *, zero: bool = False, below_one: bool = False) -> float:
    """A number in (0, 1]; with ``zero`` also 0, with ``below_one`` not 1.

    Raises:
        ValueError: if it is something else.
    """
    if _is_number(value) and (0 < value < 1 or (value == 0 and zero) or (value == 1 and not below_one)):
        return float(value)
    raise refuse(name, value, f"{accepted} in {'[' if zero else '('}0, 1{')' if below_one else ']'}")


def share_or_none(name: str, value: Any, none: str, accepted: str = "a share") -> float | None:
    """A number in (0, 1], or None, which means ``none`` (``"no bound"``).

    Raises:
        ValueError: if it is neither.
    """
    return _or_none(value, f"for {none}", lambda: share(name, value, accepted))


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


def one_of_or_none(name: str, value: T | None, accepted: Collection[Any], none: str) -> T | None:
    """One of a few values, or None, which means ``none`` (``"to infer it"``).

    Raises:
        ValueError: if it is neither.
    """
    return _or_none(value, none, lambda: one_of(name, value, accepted))


def different(name: str, values: Any, accepted: str, *, least: int = 1) -> tuple[Any, ...]:
    """A list of at least ``least`` values, no two of which are equal.

    Raises:
        ValueError: if it is something else.
    """
    found = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes | dict) else ()
    if len(found) >= least and not any(value in found[:place] for place, value in enumerate(found)):
        return found
    raise refuse(name, values, f"{accepted}, at least {least}")


def flag(name: str, value: Any) -> bool:
    """True or False; a text such as ``"no"`` would count as true.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(value, bool):
        return value
    raise refuse(name, value, "True or False")


def callable_or_none(name: str, value: Callable[..., T] | None, call: str, none: str) -> Callable[..., T] | None:
    """A function, called as in ``call`` (``"loss(outputs, targets)"``), or None, which means ``none``.

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


def tag_or_none(name: str, value: Any, example: str) -> str | None:
    """A text that can be one part of a tag, or None.

    Raises:
        ValueError: if it is something else: a slash would begin another part, and TensorBoard changes blanks.
    """
    if value is None or (isinstance(value, str) and value and not any(c == "/" or c.isspace() for c in value)):
        return value
    raise refuse(name, value, f"a word without blanks and slashes, such as {example!r}, or None")


def _or_none(value: Any, none: str, check: Callable[[], T]) -> T | None:
    """None as it is, any other value checked; an error also offers None, with its meaning."""
    try:
        return None if value is None else check()
    except ValueError as error:
        raise ValueError(f"{error}, or None {none}") from None


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _meant(value: Any, least: int) -> str:
    """Suggestion of the whole number that a float such as ``1e4`` means."""
    return f" (such as {int(value)})" if isinstance(value, float) and value.is_integer() and value >= least else ""


def _shown(value: Any) -> str:
    """The value as it was written; for a tensor, a data set or an object without a text of its own, the type."""
    shown = repr(value)
    return shown if len(shown) <= 80 and "\n" not in shown and " at 0x" not in shown else f"<{type(value).__name__}>"
