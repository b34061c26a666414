"""Names of a package that are imported when they are asked for, so that importing the package stays light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package.

    Args:
        package: Name of the package.
        homes: For each name the module below the package that has it.

    >>> find = imported_on_demand("convscope.dashboard", {"Run": "record"})
    >>> find("Run").__name__
    'Run'
    """

    def find(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
