"""What the commands print: text and tables for a terminal or a pipe of any encoding."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from convscope.loggers.terminal import encoding_of, printable, say


def show(text: str) -> None:
    """Print, also into a pipe whose reader has closed it (``convscope layers … | head``)."""
    try:
        say(text, sys.stdout)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains of it when it ends


def complain(error: BaseException) -> None:
    """Print an error as one line."""
    say(f"convscope: {' '.join(str(error).split()) or type(error).__name__}", sys.stderr)


def columns(rows: Sequence[Sequence[str]], right: bool = False) -> str:
    """A table of texts; ``right``: all columns but the first are aligned at their right."""
    shown = [[printable(cell, encoding_of(sys.stdout)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(_line(row, widths, right) for row in shown)


def _line(row: list[str], widths: list[int], right: bool) -> str:
    cells = [
        cell.rjust(width) if right and place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
