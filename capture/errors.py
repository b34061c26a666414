"""Kinds of errors: a mistake in the user's arguments or data, and user code that failed when convscope called it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake in arguments or data given to convscope, refused before training begins with this message."""


class TooFewError(ValueError):
    """Held-out samples or classes are too few for what a callback measures.

    A mistake where the user asks for that callback; one that a suite has added is skipped.
    """


class UserCodeError(RuntimeError):
    """The user's own code (a data set, a transform, a forward) failed: never a reason to refuse the run."""


def or_mistake(run: Callable[[], T], *kinds: type[Exception]) -> T:
    """Call ``run``, whose errors of these kinds mean that an argument or the data is wrong.

    Raises:
        UserError: if it raises one of them; other errors are let through.
    """
    try:
        return run()
    except UserError:
        raise
    except kinds as error:
        raise UserError(str(error)) from error


def users_failure(error: BaseException) -> BaseException | None:
    """The error of the user's own code behind this one, whose traceback they need; None if there is none.

    What is given to ``raise … from``: the steps between our own checks say nothing that the message does not.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserCodeError):
        cause = cause.__cause__
    return None if cause is None else cause.__cause__


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run a block of the user's code; any error, a ``ValueError`` too, leaves it as :class:`UserCodeError`.

    Out of memory is let through as it is, since fewer samples at a time may fit.

    Args:
        what: First part of the message: the thing that was being done.

    Raises:
        UserCodeError: if the block fails.
    """
    try:
        yield
    except (UserError, UserCodeError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise UserCodeError(f"{what} failed ({type(error).__name__}: {error})") from error
