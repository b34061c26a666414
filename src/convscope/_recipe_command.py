"""``convscope run RECIPE``: one of the training programs that convscope ships."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import sys
import traceback
from importlib import resources
from typing import Any

from convscope._terminal import columns, show


def add_to(commands: Any) -> None:
    """Add the command to those of the parser."""
    recipe = commands.add_parser(
        "run", help="run a recipe; without a name: list them", prefix_chars="\0", add_help=False
    )
    recipe.add_argument("recipe", nargs="?", metavar="RECIPE", help="its name")
    recipe.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="of the recipe; --help lists them")
    recipe.set_defaults(run=_run)


def recipes() -> dict[str, str]:
    """Names of the recipes, and what each one is."""
    files = {
        entry.name.removesuffix(".py"): entry
        for entry in resources.files("convscope.recipes").iterdir()
        if entry.name.endswith(".py") and not entry.name.startswith("_")
    }
    return {name: _headline(files[name].read_text(encoding="utf-8")) for name in sorted(files)}


def _headline(source: str) -> str:
    return (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split("\n")[0]


def _run(options: argparse.Namespace) -> int:
    known = recipes()
    if options.recipe is None or options.recipe in ("-h", "--help"):
        show(f"usage: convscope run RECIPE [options of the recipe]\n\n{columns(list(known.items()))}")
        return 0
    name = options.recipe.replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no recipe {options.recipe!r}: {meant}there are {', '.join(known)}")
    return _started(name, options.arguments)


def _started(name: str, arguments: list[str]) -> int:
    """Run the recipe's program; an error of its own is shown with its traceback."""
    before, sys.argv = sys.argv, [f"convscope run {name}", *arguments]
    try:
        importlib.import_module(f"convscope.recipes.{name}").main()
    except ModuleNotFoundError as error:
        raise ImportError(f"the recipe {name} needs {error.name}: pip install 'convscope[recipes]'") from error
    except SystemExit as end:
        if isinstance(end.code, str):  # a mistake, in the recipe's own words
            raise ValueError(end.code) from end
        raise
    except (OSError, UnicodeDecodeError) as error:
        hint = f"python -m convscope.recipes.{name} shows where"
        raise ValueError(f"{type(error).__name__}: {error}; {hint}") from error
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv = before
    return 0
