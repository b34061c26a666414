"""Objects that a user names on the command line as ``package.module:Name``."""

from __future__ import annotations

import difflib
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
        ImportError: if there is no such module, or it fails when it is imported.
        AttributeError: if there is no such name in it.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{path!r}: give package.module:Name, for example {example}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(
            f"{path!r}: {error}; start convscope in the folder that holds {module_name.split('.')[0]}, or install what "
            "is missing"
        ) from error
    except (Exception, SystemExit) as error:
        raise ImportError(
            f"{path!r}: importing {module_name} failed ({type(error).__name__}: {error}); try "
            f"python -c 'import {module_name}', which shows where"
        ) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, [name for name in vars(module) if not name.startswith("_")], 3, 0.4)
        meant = f"; nearest: {', '.join(near)}" if near else ""
        raise AttributeError(f"{path!r}: module {module_name} has no attribute {attribute!r}{meant}")
    return getattr(module, attribute)


def called(make: Any, path: str) -> Any:
    """What a class or factory of the user's gives, called without arguments.

    Raises:
        ValueError: if it fails; it says how to give it arguments.
    """
    try:
        return make()
    except Exception as error:
        raise ValueError(
            f"{path!r} cannot be called without arguments ({type(error).__name__}: {error}); give a function of "
            "yours that returns it, in a file of the current folder: my_file:my_function"
        ) from error
