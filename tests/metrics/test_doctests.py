"""The examples in the docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import convscope.metrics
import convscope.metrics.functional

MODULES = [
    *(
        f"convscope.metrics.{name}"
        for name in ("probe", "task_probes", "cka", "drift", "health", "correlation", "importance", "summary", "parts")
    ),
    *(
        f"convscope.metrics.functional.{name}"
        for name in (
            "cka",
            "drift",
            "health",
            "scores",
            "ridge",
            "logistic",
            "neighbours",
            "covariance",
            "tasks",
            "positions",
            "correlation",
            "importance",
            "summary",
            "parts",
            "places",
        )
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("package", [convscope.metrics, convscope.metrics.functional])
def test_every_public_name_has_an_example_and_a_source(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        item = getattr(package, name)
        if (inspect.isclass(item) and issubclass(item, tuple)) or not (
            inspect.isclass(item) or inspect.isfunction(item)
        ):
            continue
        documentation = inspect.getdoc(item) or ""
        for part in (">>>", "Raises:", "Source:"):
            assert part in documentation, f"{name} lacks {part}"
