"""The docs: links lead somewhere, public names are listed and are all that examples use."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from tests.support.doc_blocks import PAGES, blocks

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "convscope",
    "convscope.alerts",
    "convscope.alerts.detectors",
    "convscope.callbacks",
    "convscope.capture",
    "convscope.dashboard",
    "convscope.loggers",
    "convscope.metrics",
    "convscope.metrics.functional",
    "convscope.rules",
]
"""Modules whose ``__all__`` is what users may rely on. Everything else is internal."""


def public_names(module: str) -> set[str]:
    return set(importlib.import_module(module).__all__)


def anchors(text: str) -> set[str]:
    """Headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", text):
        path = page.parent / target if target else page
        assert path.exists(), f"links to {target}, which is not there"
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{target} has no heading #{anchor}"


def imports_of_convscope(code: str) -> list[tuple[str, str]]:
    """(module, name) of every import from convscope; the name is empty for ``import convscope.x``."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "convscope":
            found += [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "convscope"]
    return found


def not_public(code: str) -> list[str]:
    """Imports of what users may not rely on. The recipes are programs to read and to start from."""
    return [
        f"{module} {name}".strip()
        for module, name in imports_of_convscope(code)
        if not module.startswith("convscope.recipes")
        and (module not in PUBLIC or (name and name not in public_names(module)))
    ]


def test_examples_in_the_docs_use_public_names_only() -> None:
    assert {
        block.where: bad
        for block in blocks("python")
        if not block.mark.startswith("inside") and (bad := not_public(block.code))
    } == {}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_recipes_use_public_names_only(path: Path) -> None:
    assert not_public(path.read_text(encoding="utf-8")) == []


def entries() -> dict[str, set[str]]:
    """Names listed in docs/api.md, by the module that their section is about."""
    found: dict[str, set[str]] = {}
    section = ""
    for line in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif name := re.match(r"\| `(\w+)` \| .+ \| \[.+\]\(.+\) \|$", line):
            found.setdefault(section, set()).add(name[1])
    return found


def test_every_public_name_has_an_entry() -> None:
    listed = [(module, name) for module, names in entries().items() for name in names]
    known = {id(getattr(importlib.import_module(module), name)) for module, name in listed}
    missing = [
        f"{module}.{name}"
        for module in PUBLIC
        for name in sorted(public_names(module))
        if name not in entries().get(module, set()) and id(getattr(importlib.import_module(module), name)) not in known
    ]
    assert missing == []


def test_every_entry_is_a_public_name() -> None:
    assert {module: names - public_names(module) for module, names in entries().items()} == {
        key: set() for key in PUBLIC
    }


def test_every_public_class_and_function_says_what_it_is() -> None:
    public = [getattr(importlib.import_module(module), name) for module in PUBLIC for name in public_names(module)]
    told = [item for item in public if inspect.isclass(item) or inspect.isfunction(item)]
    assert [item.__name__ for item in told if not inspect.getdoc(item)] == []
