"""Text for a terminal, pipe or log of any encoding: characters that it lacks are replaced by plain ones."""

from __future__ import annotations

import logging
from typing import TextIO

_PLAIN = {"–": "-", "−": "-", "…": "...", "→": "->", "×": "x", "ρ": "rho", "γ": "gamma", "Δ": "d", "²": "2", "±": "+-"}


def printable(text: str, encoding: str | None) -> str:
    """``text`` with each character that ``encoding`` lacks replaced: ``ρ`` as ``rho``, ``é`` as ``\\xe9``.

    Args:
        text: Any text; layer names come from users.
        encoding: Encoding of the stream; None for a stream that accepts all text, such as ``StringIO``.

    >>> printable("mean |ρ| – 3×3", "cp1252"), printable("mean |ρ| – 3×3", "ascii")
    ('mean |rho| – 3×3', 'mean |rho| - 3x3')
    >>> printable("café → 1", "ascii"), printable("café → 1", None)
    ('caf\\\\xe9 -> 1', 'café → 1')
    """
    if encoding is None or _fits(text, encoding):
        return text
    return "".join(character if _fits(character, encoding) else _plain(character) for character in text)


def _plain(character: str) -> str:
    return _PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    except LookupError:  # an encoding that Python does not know
        return text.isascii()
    return True


def encoding_of(stream: object) -> str | None:
    """The encoding that a stream names, None if it names none (``StringIO``) or there is no stream."""
    found = getattr(stream, "encoding", None)
    return found if isinstance(found, str) else None


def say(text: str, stream: TextIO | None) -> None:
    """Print a line that the stream can show. Without a stream (``pythonw``, a daemon) nothing is printed."""
    if stream is not None:
        print(printable(text, encoding_of(stream)), file=stream)


class _Printable(logging.Filter):
    """Rewrite records that a handler's stream cannot show: it would lose the line and print a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        for encoding in _encodings(logging.getLogger(record.name)):
            message = record.getMessage()
            if (shown := printable(message, encoding)) != message:
                record.msg, record.args = shown, None
            if record.exc_info:
                traceback = record.exc_text or logging.Formatter().formatException(record.exc_info)
                if (shown := printable(traceback, encoding)) != traceback:
                    record.exc_text = shown
        return True


def _encodings(logger: logging.Logger) -> set[str]:
    """Encodings of the streams that a logger's records go to."""
    handlers: list[logging.Handler] = []
    here: logging.Logger | None = logger
    while here is not None:
        handlers += here.handlers
        here = here.parent if here.propagate else None
    if not handlers and logging.lastResort is not None:
        handlers = [logging.lastResort]
    found = (encoding_of(getattr(handler, "stream", None)) for handler in handlers)
    return {encoding for encoding in found if encoding is not None}


logging.getLogger("convscope").addFilter(_Printable())
