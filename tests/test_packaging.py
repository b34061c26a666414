"""The folders are installed as pyproject.toml says, and everything public can be imported and has a docstring."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import itertools
import re
from pathlib import Path

import pytest

import convscope

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGES = ("alerts", "callbacks", "capture", "dashboard", "explainers", "loggers", "metrics", "recipes")
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


def _defined(path: Path, *kinds: type[ast.stmt]) -> list[str]:
    found = ast.parse(path.read_text(encoding="utf-8")).body
    return [node.name for node in found if isinstance(node, kinds)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_function_has_the_name_of_its_module(file: Path) -> None:
    # ``import a.b`` and ``from a import b`` would then mean two things, by what was imported before.
    module = file.parent.name if file.stem == "__init__" else file.stem
    assert module not in _defined(ROOT / file, ast.FunctionDef, ast.AsyncFunctionDef)


def _aliases(path: Path) -> list[str]:
    """Names of types that are defined by an assignment: ``Values = dict[...]``."""
    found = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)]
    names = [target.id for node in found for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in names if name[0].isupper() and not name.isupper() and len(name) > 1]


def test_no_two_types_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for file in FILES:
        for name in [*_defined(ROOT / file, ast.ClassDef), *_aliases(ROOT / file)]:
            places.setdefault(name, []).append(str(file))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


# Which packages a package may import from, and what it must not know. The checks of arguments serve all of them, and
# know nothing themselves.
ALLOWED = {
    "alerts": {"alerts"},
    "metrics": {"metrics"},
    "capture": {"capture"},
    "dashboard": {"dashboard"},
    "explainers": {"explainers"},
    "loggers": {"loggers"},
    "callbacks": {"alerts", "callbacks", "capture", "dashboard", "explainers", "metrics", "loggers"},
}
SHARED = {"convscope._arguments", "convscope._devices", "convscope._lazy"}
"""What any package may use."""
FOREIGN = {
    "alerts": ("torch", "lightning", "torchmetrics"),
    "metrics": ("lightning",),
    "capture": ("lightning",),
    "dashboard": ("torch", "lightning", "torchmetrics", "tensorflow"),
    "explainers": ("lightning",),
    "loggers": ("lightning",),
    "callbacks": (),
}


def _imports(path: Path) -> list[str]:
    """Modules that a file imports, wherever in it: also within functions and under ``TYPE_CHECKING``."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name in MODULES else node.module or "" for name in names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for module in _imports(path):
            if module.startswith("convscope.") and module not in SHARED:
                assert module.split(".")[1] in ALLOWED[package], f"{path}: {module}"
            assert module.split(".")[0] not in FOREIGN[package], f"{path} touches {module}"


ARROWS = {
    name: {module for module in _imports(ROOT / path) if module in MODULES and module != name}
    for name, path in zip(MODULES, FILES, strict=True)
    if not name.startswith("convscope.recipes")
}
"""Which modules each module imports."""


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert _in_circles(ARROWS) == []


def _in_circles(arrows: dict[str, set[str]]) -> list[str]:
    """What is left once modules that import nothing of the rest are taken away, over and over."""
    left = dict(arrows)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_the_search_for_circles_finds_one() -> None:
    assert _in_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]


def _layer_of_callbacks(module: str) -> str:
    """Engine, parts, or the callbacks that users add."""
    below = module.removeprefix("convscope.callbacks").split(".")
    return below[1] if len(below) > 1 and below[1] in ("engine", "parts") else "callback"


@pytest.mark.parametrize(("layer", "above"), [("engine", {"parts", "callback"}), ("parts", {"callback"})])
def test_the_engine_knows_no_parts_and_parts_know_no_callbacks(layer: str, above: set[str]) -> None:
    upwards = {
        (name, module)
        for name, targets in ARROWS.items()
        if name.startswith("convscope.callbacks") and _layer_of_callbacks(name) == layer
        for module in targets
        if module.startswith("convscope.callbacks") and _layer_of_callbacks(module) in above
    }
    assert upwards == set()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_extras_in_the_docs_are_those_of_the_project() -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.MULTILINE)
    assert [name for name, _ in rows] == list(PROJECT["optional-dependencies"])
    for name, drawn_in in rows:
        needed = PROJECT["optional-dependencies"][name]
        own = [re.split(r"[\[<>=! ]", one)[0] for one in needed if not one.startswith("convscope")]
        assert name == "test" or [one for one in own if one not in drawn_in] == []


def test_the_oldest_versions_are_the_bounds_of_the_project() -> None:
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = dict(line.split("==") for line in lines if not line.startswith("#"))
    required = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    bounds = dict(re.findall(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", " ".join(required)))
    assert set(oldest) >= {re.split(r"[<>=! ]", one)[0] for one in PROJECT["dependencies"]} - {"torch"}
    for name, version in oldest.items():
        assert version == bounds[name] or version.startswith(f"{bounds[name]}."), (name, version, bounds[name])


def test_the_version_is_said_alike_everywhere() -> None:
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8") or "dev" in version
