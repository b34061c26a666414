"""Objects that a user names on the command line as ``package.module:Name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def imported(path: str, example: str) -> Any:
    """The object, also of a module in the current folder.

    Args:
        path: ``package.module:Name``.
        example: What could be given.

    Raises:
        ValueError: if ``path`` has no name after a colon.
        ImportError: if there is no such module.
        AttributeError: if there is no such name in it.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{path!r}: give package.module:Name, for example {example}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return getattr(importlib.import_module(module_name), attribute)
