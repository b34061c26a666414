"""The front end's arithmetic, run by node: scales as the pictures have them, states in words, layers of two runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convscope.loggers.scale import scale_of

SOURCES = Path(__file__).parents[2] / "dashboard" / "frontend"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def run(module: str, code: str, given: Any) -> Any:
    """Value of a JavaScript expression in which ``m`` is a module of the front end and ``given`` a plain value."""
    program = (
        f"import * as m from {json.dumps((SOURCES / module).as_uri())};"
        f"const given = {json.dumps(given)}; console.log(JSON.stringify({code}));"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def states(score: Any, dead: Any = None, check: int | None = None) -> Any:
    """States of layers a, b, … at a check, the last by default."""
    given = {"score": score, "dead": dead, "check": len(score) - 1 if check is None else check}
    code = (
        "((table) => m.states({layers: given.score[0].map((_, i) => ({name: 'abc'[i]}))}, {score: table(given.score),"
        " dead: given.dead && table(given.dead)}, given.check, 0.1, (i) => i ? `epoch ${i - 1}` : 'before training'))"
        "((rows) => ({rows: rows.length, columns: rows[0].length, values: rows.flat().map((x) => x ?? NaN)}))"
    )
    return run("status.js", code, given)


def test_scales_are_those_of_the_pictures() -> None:
    random = np.random.default_rng(0)
    cases: list[dict[str, Any]] = []
    for _ in range(200):
        values = random.normal(random.uniform(-1, 1), 10 ** random.uniform(-4, 1), random.integers(0, 30))
        values[random.random(len(values)) < 0.1] *= 50  # far out
        low, high = (0.0, 1.0) if random.random() < 0.5 else (None, None)
        start = 0.25 if random.random() < 0.3 else None
        cases.append({"values": values.tolist(), "low": low, "high": high, "start": start})
    found = run("scale.js", "given.map((one) => m.scaleOf(one.values, one, one.start))", cases)
    for case, scale in zip(cases, found, strict=True):
        expected = scale_of(case["values"], case["low"], case["high"], case["start"])
        assert (scale["low"], scale["high"]) == pytest.approx((expected.low, expected.high)), case


def test_sizes_that_span_much_have_a_logarithmic_scale() -> None:
    given = [[1e-6, 1e-3, 1.0], [0.5, 0.6, 1.0]]
    wide, narrow = run("scale.js", "given.map((one) => m.scaleOf(one, {low: 0, high: null}))", given)
    assert wide["log"]
    assert not narrow["log"]
    middle = run("scale.js", "m.position(1e-3, {low: 1e-6, high: 1, log: true})", None)
    assert middle == pytest.approx(0.5)


def test_a_layer_that_loses_what_it_knew_has_a_problem_since_then() -> None:
    score = [[0.1, 0.1], [0.5, 0.5], [0.8, 0.8], [0.3, 0.79], [0.3, 0.81]]
    fallen, learning = states(score)
    assert fallen["level"] == "problem"
    assert fallen["words"] == "lost 50 points since epoch 2"
    assert learning["level"] == "fine"
    assert "+71 points" in learning["words"]
    assert states(score, check=2)[0]["level"] == "fine"  # nothing of what comes later


def test_dead_filters_count_from_the_check_at_which_they_died() -> None:
    score = [[0.5, 0.5]] * 4
    dead = [[0.0, 0.3], [0.0, 0.3], [0.8, 0.3], [0.9, 0.3]]
    gone, some = states(score, dead)
    assert gone["level"] == "problem"
    assert gone["words"].startswith("90 % of filters dead since epoch 1")
    assert some["level"] == "watch"
    assert some["words"].startswith("30 % of filters dead from the start")


def test_a_layer_without_numbers_is_not_judged() -> None:
    (state,) = states([[None]])
    assert state["level"] == "none"


def test_layers_are_paired_by_name_or_else_by_relative_depth() -> None:
    names = lambda text: [{"name": name} for name in text]  # noqa: E731
    pairs = run("align.js", "m.layerPairs(given[0], given[1])", [names("abcd"), names("abxd")])
    assert pairs["how"] == "name"
    assert [pair["b"] for pair in pairs["pairs"]] == [0, 1, -1, 3]
    pairs = run("align.js", "m.layerPairs(given[0], given[1])", [names("abcde"), names("xyz")])
    assert pairs["how"] == "relative depth"
    assert [(pair["a"], pair["b"]) for pair in pairs["pairs"]] == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)]


def test_checks_are_paired_by_epoch_or_else_by_step() -> None:
    meta = lambda epochs, steps: {"epochs": epochs, "steps": steps}  # noqa: E731
    given = [meta([0, 1, 2, 3], [0, 10, 20, 30]), meta([0, 2], [0, 80])]
    assert run("align.js", "m.checkPairs(given[0], given[1]).pairs", given) == [0, -1, 1, -1]
    given = [meta([0, 0, 0, 1], [0, 10, 20, 50]), meta([0, 0, 1], [0, 12, 30])]
    assert run("align.js", "m.checkPairs(given[0], given[1]).pairs", given) == [0, 1, 1, -1]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["backbone.layer1.0", "backbone.layer2.0", "output"], ["layer1.0", "layer2.0", "output"]),
        (["features.0", "features.3"], ["features.0", "features.3"]),
        (["a.b.c", "a.b.d"], ["c", "d"]),
        (["conv1", "net.conv2"], ["conv1", "net.conv2"]),
        (["net.conv1"], ["net.conv1"]),
    ],
)
def test_names_lose_what_all_of_them_begin_with(names: list[str], expected: list[str]) -> None:
    assert run("format.js", "m.shortNames(given)", names) == expected


def test_numbers_are_written_with_three_digits() -> None:
    given = [0, 0.12345, 12345.6, 1.5e7, 250.4, -0.5, None]
    assert run("format.js", "given.map(m.number)", given) == ["0", "0.123", "12346", "1.5e+7", "250", "−0.500", "–"]
