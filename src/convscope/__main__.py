"""The command line: ``convscope layers | report | compare | replay | run | rules``; docs/cli.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from convscope import _layers_command, _recipe_command, _replay_command, _report_command, _rules_command
from convscope._terminal import complain

_MISTAKES = (ValueError, LookupError, ImportError, AttributeError, TypeError, RuntimeError, OSError, SyntaxError)
"""Errors that a wrong argument leads to; a recipe's own errors are not caught."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``convscope`` command; returns the exit status, 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except _MISTAKES as error:
        complain(error)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convscope", description="Watch what a CNN learns while it trains.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (_layers_command, _report_command, _replay_command, _recipe_command, _rules_command):
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
