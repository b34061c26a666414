"""The folders are installed as pyproject.toml says, and everything public can be imported and has a docstring."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import convscope

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGES = ("alerts", "callbacks", "capture", "explainers", "loggers", "metrics", "recipes")
FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = [".".join(("convscope", *path.with_suffix("").parts)).removesuffix(".__init__") for path in FILES]


def test_the_package_map_is_the_tree() -> None:
    folders = {"convscope": "src/convscope"}
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            folder = init.parent.relative_to(ROOT)
            folders[".".join(("convscope", *folder.parts))] = folder.as_posix()
    assert SETUPTOOLS["package-dir"] == folders
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_and_their_examples(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    assert doctest.testmod(module).failed == 0


def test_every_public_object_says_what_it_is() -> None:
    silent = [name for name in convscope.__all__ if not inspect.getdoc(getattr(convscope, name))]
    assert silent == []


# Which packages a package may import from, and what it must not know.
ALLOWED = {
    "alerts": {"alerts"},
    "metrics": {"metrics"},
    "capture": {"capture"},
    "explainers": {"explainers"},
    "loggers": {"loggers"},
    "callbacks": {"alerts", "callbacks", "capture", "explainers", "metrics", "loggers"},
}
FOREIGN = {
    "alerts": ("torch", "lightning", "torchmetrics"),
    "metrics": ("lightning",),
    "capture": ("lightning",),
    "explainers": ("lightning",),
    "loggers": ("lightning",),
    "callbacks": (),
}


def _imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for module in _imports(path):
            if module.startswith("convscope."):
                assert module.split(".")[1] in ALLOWED[package], f"{path}: {module}"
            assert module.split(".")[0] not in FOREIGN[package], f"{path} touches {module}"
