"""Mutants are drawn from where a change matters, and made in a copy of the tree alone."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutant_sites import mutants

program: Any = pytest.importorskip("benchmarks.mutants", reason="needs tomllib, which came with Python 3.11")

SOURCE = '''
"""Docstring with 3 numbers."""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from a import b
LIMIT: "int | None" = 5

@decorator(7)
def é(x: int = 1, y: float | None = None) -> int:
    """Another, 4."""
    if x < 2 and not y:
        raise ValueError(f"x={x + 1}", x - 1)
    z = [v for v in range(x, y) if v]
    return pow(x, -y) if isinstance(x, list | tuple) else z[x:]
'''
EXPECTED = [
    ("constant", "5", "6"), ("constant", "1", "2"), ("negation", "x < 2 and not y", "(not (x < 2 and (not y)))"),
    ("negation", "x < 2 and not y", "(x < 2 or not y)"), ("comparison", "x < 2", "(x <= 2)"),
    ("comparison", "x < 2", "(x >= 2)"), ("constant", "2", "3"), ("negation", "not y", "(y)"),
    ("swapped arguments", "range(x, y)", "(range(y, x))"), ("off by one", "x", "(x + 1)"),
    ("off by one", "y", "(y + 1)"), ("negation", "v", "(not v)"), ("swapped arguments", "pow(x, -y)", "(pow(-y, x))"),
    ("dropped return", "pow(x, -y) if isinstance(x, list | tuple) else z[x:]", "None"), ("arithmetic", "-y", "(y)"),
    ("negation", "isinstance(x, list | tuple)", "(not isinstance(x, list | tuple))"), ("off by one", "x", "(x + 1)"),
]  # fmt: skip


def test_every_kind_of_change_where_it_matters(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE, encoding="utf-8")
    source = SOURCE.encode()
    found = mutants(tmp_path / "a.py", tmp_path)
    assert Counter((m.kind, source[m.start : m.stop].decode(), m.after) for m in found) == Counter(EXPECTED)
    for mutant in found:
        changed = mutant.applied(source)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
        removed, added = mutant.diff(source).split("\n")[1:]
        assert (removed[1:], added[1:]) == tuple(
            text.decode().split("\n")[mutant.line - 1] for text in (source, changed)
        )


def test_the_seed_decides_and_a_larger_sample_begins_with_the_smaller() -> None:
    few, many = (program.drawn(["capture"], count, seed=3) for count in (5, 20))
    assert many[:5] == few
    assert program.drawn(["capture"], 20, seed=4) != many
    assert {m.file.split("/")[0] for m in many} == {"capture"}
    assert len({m.key for m in program.drawn(["capture", "metrics"], 10**6, seed=3)}) > 2000


def test_the_tests_of_a_files_area_come_first_its_own_before_all() -> None:
    assert program.area("capture/data/heldout.py")[0] == "tests/capture/test_heldout.py"
    ridge = program.area("metrics/functional/ridge.py")
    assert ridge[0] == "tests/metrics/test_probe.py"
    assert set(ridge) >= {f"tests/metrics/{path.name}" for path in (program.ROOT / "tests/metrics").glob("test_*.py")}


# A program of its own: the tests of a mutant run in a child that must not hold convscope yet.
JUDGING = """
import sys
from pathlib import Path
from benchmarks import mutants as program
from benchmarks.mutant_sites import mutants

killed, survives = (
    next(m for m in mutants(program.ROOT / "metrics/functional" / file, program.ROOT) if m.kind == kind)
    for file, kind in (("drift.py", "dropped return"), ("ridge.py", "comparison"))
)
program.drawn = lambda packages, count, seed, root: [killed, survives]
program.area = lambda file, root: ["tests/metrics/test_drift.py", "tests/metrics/test_cka.py"]  # neither runs ridge
program.run(["metrics"], 2, 1, Path(sys.argv[1]), files=int(sys.argv[2]))
"""


@pytest.mark.slow
def test_mutants_are_judged_in_a_copy_and_not_twice(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"

    def judged(files: int) -> list[dict[str, Any]]:
        command = [sys.executable, "-c", JUDGING, str(results), str(files)]
        subprocess.run(command, cwd=program.ROOT, check=True, capture_output=True, timeout=250)
        return [json.loads(line) for line in results.read_text().splitlines()]

    def status() -> bytes:
        return subprocess.run(["git", "status", "--short"], cwd=program.ROOT, capture_output=True, check=True).stdout

    before, first = status(), judged(files=1)
    assert [record["outcome"] for record in first] == ["killed", "survived"]
    assert judged(files=1) == first  # nothing is judged twice ...
    later = judged(files=2)  # ... but what lives meets the tests that it has not met
    assert [(record["key"], record["files"]) for record in later[2:]] == [(first[1]["key"], 2)]
    assert status() == before
    text = program.report(list(program.load(results).values()))
    assert f"metrics/functional/ridge.py:{first[1]['line']}  comparison" in text
    assert text.endswith("all: 1 of 2 killed, 50%")
