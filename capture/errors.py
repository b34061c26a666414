"""Kinds of errors: a mistake in what the user gave, and user code that failed while we called it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake in what was given to convscope: it is refused before training begins, with this message."""


class UserCodeError(RuntimeError):
    """The user's own code (a data set, a transform, a forward) failed: never a reason to refuse the run."""


def or_mistake(run: Callable[[], T], *kinds: type[Exception]) -> T:
    """``run()``, whose errors of these kinds mean that the user gave something wrong.

    Raises:
        UserError: if it raises one of them; other errors are let through.
    """
    try:
        return run()
    except UserError:
        raise
    except kinds as error:
        raise UserError(str(error)) from error


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run a block of the user's code; whatever it raises, a ``ValueError`` too, leaves as :class:`UserCodeError`.

    Out of memory is left as it is, since fewer samples at a time may do.

    Args:
        what: What was being done, as the first part of the message.

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
