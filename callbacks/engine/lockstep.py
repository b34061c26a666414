"""Processes in step: a block that fails on one process fails on all, wherever in its code that was.

torchmetrics gathers inside ``compute``, and whether a callback's code fails before it gathers cannot be known. So the
processes meet before every exchange of data and at the end of every block: each tells the others where it is, and a
process that finds another elsewhere ends its block. No process waits for one that will never come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.hierarchies import both
from convscope.capture.errors import UserError
from convscope.metrics._base import before_sync

T = TypeVar("T")

_EXCHANGE, _END = 0, 1
_depth = 0  # blocks that this process is in


class ElsewhereError(RuntimeError):
    """A failure of another process, in a block that succeeded here."""


class _Place(NamedTuple):
    """Place in the code that a process has reached."""

    depth: int
    kind: int
    failed: int


def together(run: Callable[[], T]) -> T:
    """Call ``run`` on every process; blocks may be nested, and may gather as often as they like.

    Raises:
        UserError: if it raised one on some process; the same message on all.
        Exception: the one that it raised here, or :class:`ElsewhereError` if it raised one on another process.
    """
    if bridge.processes() == 1:
        return run()
    result, failure = _attempt(run)
    if _all_ended(failure is not None):
        return result  # type: ignore[return-value]
    told = bridge.gather_at_once(None if failure is None else _told(failure))
    raise _shared(failure, [one for one in told if one is not None])


def is_mistake(error: BaseException) -> bool:
    """Return whether an error is the user's mistake, found before training."""
    return isinstance(error, (UserError, *both(MisconfigurationException)))


def _attempt(run: Callable[[], T]) -> tuple[T | None, Exception | None]:
    global _depth
    _depth += 1
    try:
        with before_sync(_meet):
            return run(), None
    except Exception as error:
        return None, error
    finally:
        _depth -= 1


def _meet() -> None:
    """Meet before an exchange of data: go on only where every process is about to make the same one."""
    places = _places(_Place(_depth, _EXCHANGE, 0))
    if len({(place.depth, place.kind) for place in places}) > 1:
        raise ElsewhereError("another process has given up before this exchange of data")


def _all_ended(failed: bool) -> bool:
    """Wait until every process is at the end of this block; return whether it succeeded on all."""
    mine = _Place(_depth + 1, _END, int(failed))
    # A process at its end waits in meetings for those that still exchange data; each exchange is one such meeting.
    while True:
        places = _places(mine)
        if any(place.depth < mine.depth for place in places):
            raise ElsewhereError("another process has given up before this block")
        if all((place.depth, place.kind) == (mine.depth, _END) for place in places):
            return not any(place.failed for place in places)


def _places(mine: _Place) -> list[_Place]:
    return [_Place(*row) for row in bridge.gather_integers(list(mine))]


def _told(error: Exception) -> tuple[bool, str]:
    return is_mistake(error), str(error) if is_mistake(error) else f"{type(error).__name__}: {error}"


def _shared(own: Exception | None, told: list[tuple[bool, str]]) -> Exception:
    """The error to raise on this process: a mistake is the same on all, whoever found it."""
    causes = [message for wrong, message in told if not wrong and not message.startswith(ElsewhereError.__name__)]
    # An error that only repeats another process's, as a set that is read in step does, is not a cause of its own.
    mistake = next((m for wrong, m in told if wrong and not any(m in cause for cause in causes)), None)
    if mistake is not None:
        return own if own is not None and is_mistake(own) and str(own) == mistake else UserError(mistake)
    if own is not None and not is_mistake(own) and not isinstance(own, ElsewhereError):
        return own
    return ElsewhereError(f"on another process: {causes[0] if causes else told[0][1]}")
