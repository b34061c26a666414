"""What docs/extending.md says of its examples: how short they are, and what a listed metric is held to."""

from __future__ import annotations

import ast
import doctest
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import convscope.metrics
from tests.callbacks.conftest import Run
from tests.metrics import test_properties as laws
from tests.support.metric_cases import CASES, Case

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
INSIDE = dict(re.findall(r"<!-- inside: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def lines_of_code(code: str) -> int:
    """Lines of classes and functions, without blank lines, comments, docstrings."""
    tree = ast.parse(code)
    lines: set[int] = set()
    for definition in tree.body:
        if isinstance(definition, (ast.ClassDef, ast.FunctionDef)):
            lines |= set(range(definition.lineno, (definition.end_lineno or 0) + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    text = code.splitlines()
    return sum(1 for line in lines if text[line - 1].strip() and not text[line - 1].strip().startswith("#"))


def test_the_first_example_is_short() -> None:
    first = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    assert lines_of_code(first) < 20


def test_inside_the_tree_it_takes_two_short_files() -> None:
    files = [code for path, code in INSIDE.items() if path.startswith(("metrics/", "callbacks/"))]
    assert len(files) == 2
    assert sum(map(lines_of_code, files)) < 60


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The metric and the callback as if they were in the tree."""
    metric = ModuleType("convscope.metrics.active")
    monkeypatch.setitem(sys.modules, metric.__name__, metric)
    exec(INSIDE["metrics/active.py"], metric.__dict__)
    monkeypatch.setattr(convscope.metrics, "ActiveShare", metric.ActiveShare, raising=False)
    names: dict[str, Any] = {"__name__": "convscope.callbacks.active"}
    exec(INSIDE["callbacks/active.py"], names)
    line = eval("{" + INSIDE["tests/support/metric_cases.py"] + "}", {"Case": Case, "metrics": convscope.metrics})
    monkeypatch.setitem(CASES, "ActiveShare", line["ActiveShare"])
    return names | {"metric": metric}


def test_the_metric_passes_what_it_gets_for_free(active: dict[str, Any]) -> None:
    assert doctest.testmod(active["metric"]).attempted == 3
    assert doctest.testmod(active["metric"]).failed == 0
    laws.test_any_chunking_gives_the_same("ActiveShare")
    laws.test_the_order_of_samples_does_not_matter("ActiveShare")
    laws.test_channels_may_be_renumbered("ActiveShare")
    laws.test_scaling_does_what_it_should("ActiveShare")
    laws.test_nan_and_infinity_are_refused_or_counted("ActiveShare", float("nan"))
    laws.test_the_same_values_in_another_number_format_give_the_same("ActiveShare", torch.bfloat16)
    laws.test_constants_give_numbers_or_a_reason("ActiveShare", 0.0)
    laws.test_one_or_two_samples_of_one_channel_give_numbers_or_a_reason("ActiveShare", 1)
    laws.test_an_empty_chunk_changes_nothing_and_nothing_alone_is_refused("ActiveShare")
    laws.test_reset_forgets_and_the_result_survives_a_state_dict("ActiveShare")


def test_the_callback_runs(active: dict[str, Any], fit: Any) -> None:
    run: Run = fit([active["ActiveFilters"](on_error="raise")])
    shares = [value for _, value in run.curve("active/share/net.conv1")]
    assert len(shares) == 3
    assert all(0 < share < 1 for share in shares)
