"""Quality of the tests: one small change at a time to the code, and whether the tests of its area notice.

    python -m benchmarks.mutants --seed 1 --count 200 --packages metrics capture callbacks

A mutant is drawn at random, by the seed, from all places where a comparison, an operator, a constant, a condition, a
returned value, two arguments or a bound can be changed. It is made in a scratch copy of the tree, which is all that is
ever written to, and the tests of the file's area are run until one fails: those first that use the file's names most.
Results go to a file of JSON lines, so that an interrupted run goes on where it was. With ``--files 6`` only the six
nearest files of tests run; run again without it, what survived that meets the rest of its area's tests. What survives
is printed as a diff: a test is missing, or the change makes no difference (an equivalent mutant), which only a reader
can tell.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning  # noqa: F401  what takes long to import is there already when a child is forked
import pytest
import tomllib
import torch
import torchmetrics  # noqa: F401

from benchmarks.mutant_sites import Mutant, mutants
from benchmarks.records import read_records

ROOT = Path(__file__).parents[1]
# Folders and files of tests by package. The packages above one test it too, so their quick tests follow its own.
AREAS = {
    "metrics": ["tests/metrics"],
    "capture": ["tests/capture", "tests/callbacks", "tests/distributed"],
    "callbacks": ["tests/callbacks", "tests/compatibility", "tests/distributed"],
    "loggers": ["tests/loggers", "tests/callbacks"],
}
PYTEST = ["-x", "-q", "--no-header", "-W", "ignore", "-p", "no:cacheprovider", "--tb=no"]
QUICK = "not slow and not browser and not gpu"
SECONDS = 3600  # after which a mutant counts as an endless loop, though pytest's own limit for a test comes first
_NO_TESTS = 5  # what pytest ends with where it collected none


def drawn(packages: list[str], count: int, seed: int, root: Path = ROOT) -> list[Mutant]:
    """A random sample of the packages' mutants; a larger one begins with the smaller one of the same seed."""
    files = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    every = [mutant for path in files for mutant in mutants(path, root)]
    random.Random(seed).shuffle(every)
    return every[:count]


def area(file: str, root: Path = ROOT) -> list[str]:
    """Test files of a source file's area, those first that use its names most, after those of its own package."""
    package, stem = file.split("/")[0], Path(file).stem
    names = [node.name for node in ast.parse((root / file).read_bytes()).body if hasattr(node, "name")]
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, [stem, *names]))})\b")

    def order(path: Path) -> tuple[int, int, int]:
        # test_fit.py or, since many files share one of tests, test_outputs.py for capture/outputs/fit.py.
        tested = path.stem.removeprefix("test_")
        own = 2 * (tested == stem) + tested.startswith(Path(file).parent.name)
        rank = [place for place, folder in enumerate(AREAS[package]) if folder in path.as_posix()]
        return -own, rank[0], -len(pattern.findall(path.read_text(encoding="utf-8")))

    tests = [path for folder in AREAS[package] for path in (root / folder).rglob("test_*.py")]
    wanted = [path for path in sorted(tests, key=order) if order(path)[1] == 0 or order(path)[2] < 0]
    return [path.relative_to(root).as_posix() for path in wanted]


class Scratch:
    """A copy of the tree in which convscope is importable, whatever is installed."""

    def __init__(self, folder: str) -> None:
        self.root = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "lightning_logs", "shared")
        shutil.copytree(ROOT, self.root, ignore=ignored, symlinks=True)
        shutil.copy2(ROOT / "pyproject.toml", self.root)
        folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
        self.package = Path(folder) / "package" / "convscope"
        self.package.mkdir(parents=True)
        for path in (self.root / folders["convscope"]).iterdir():
            (self.package / path.name).symlink_to(path)
        for name, path in folders.items():
            if name.count(".") == 1:
                (self.package / name.split(".")[1]).symlink_to(self.root / path)
        self._sound: dict[str, bool] = {}
        self.left_out: list[str] = []
        """Tests that fail on the unchanged code too, so that their failure means nothing."""

    def test(self, tests: list[str]) -> tuple[str, str]:
        """Run tests until one fails: ``killed``, ``survived`` or ``timeout``, and what pytest said last."""
        with tempfile.TemporaryFile("w+") as output:
            skipped = [f"--deselect={name}" for name in self.left_out]
            status = self._forked([*PYTEST, "-m", QUICK, "--hypothesis-seed=0", *skipped, *tests], output.fileno())
            output.seek(0)
            lines = output.read().splitlines()
        said = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1] if lines else "")
        if status == _NO_TESTS:
            raise RuntimeError(f"there is nothing to run in {', '.join(tests)}")
        return {0: "survived", None: "timeout"}.get(status, "killed"), said[:300]

    def _forked(self, arguments: list[str], output: int) -> int | None:
        """Exit status of pytest in a child that has torch and Lightning already, None where it took too long."""
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.setsid()
                self._enter(output)
                os._exit(int(pytest.main(arguments)))
            os._exit(1)
        try:
            return _status(child, SECONDS)
        finally:  # also what the tests started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)

    def _enter(self, output: int) -> None:
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(self.root)
        paths = [str(self.package.parent), str(self.root)]
        sys.path[:0] = paths
        for name in [name for name in sys.modules if name.split(".")[0] in ("benchmarks", "convscope", "tests")]:
            del sys.modules[name]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # for the processes that tests start

    def judge(self, mutant: Mutant, tests: list[str]) -> dict[str, Any]:
        """Apply a mutant, run its tests, and put the file back."""
        path = self.root / mutant.file
        source, began = path.read_bytes(), time.perf_counter()
        while True:
            path.write_bytes(mutant.applied(source))
            try:
                outcome, said = self.test(tests)
            finally:
                path.write_bytes(source)
            if outcome != "killed" or self._sound_killer(said, tests):
                break
        took = round(time.perf_counter() - began, 1)
        found = {"outcome": outcome, "said": said, "seconds": took, "diff": mutant.diff(source), "files": len(tests)}
        return {"key": mutant.key, **asdict(mutant), **found}

    def _sound_killer(self, said: str, tests: list[str]) -> bool:
        """Return whether what killed a mutant passes on the unchanged code; a test that does not is left out later.

        Raises:
            RuntimeError: if pytest itself breaks down without a mutant.
        """
        named = said.startswith(("FAILED", "ERROR"))
        name = said.split(" ")[1].split("[")[0] if named else tests[0]
        if name not in self._sound:
            self._sound[name] = self.test([name])[0] == "survived"
        if not self._sound[name] and not named:
            raise RuntimeError(f"{name} cannot be run without a mutant either: {said}")
        if not self._sound[name]:
            self.left_out.append(name)
            print(f"{name} fails without a mutant too and is left out", flush=True)
        return self._sound[name]


def _status(child: int, seconds: float) -> int | None:
    """Exit status of a child of ours, None after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return None


def run(packages: list[str], count: int, seed: int, results: Path, files: int | None = None) -> None:
    """Judge the mutants that the results do not hold yet, or hold as alive after fewer files of tests.

    All is read from the copy, so that the tree may change meanwhile.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Scratch(folder)
        wanted = drawn(packages, count, seed, scratch.root)
        known = load(results)
        for place, mutant in enumerate(wanted, 1):
            tests = area(mutant.file, scratch.root)[:files]
            earlier = known.get(mutant.key)
            if earlier and (earlier["outcome"] != "survived" or earlier.get("files", 0) >= len(tests)):
                continue
            record = scratch.judge(mutant, tests)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            said = f"{record['outcome']:9} {record['seconds']:6.1f} s  {mutant.file}:{mutant.line}  {mutant.kind}"
            print(f"{place:4}/{len(wanted)}  {said}", flush=True)


def load(results: Path) -> dict[str, dict[str, Any]]:
    """Records of earlier runs by mutant, the last of each."""
    return {record["key"]: record for record in read_records(results)}


def report(records: list[dict[str, Any]]) -> str:
    """Kill rates by package, and what survived."""
    alive = [record for record in records if record["outcome"] == "survived"]
    lines = [f"{record['file']}:{record['line']}  {record['kind']}\n{record['diff']}\n" for record in alive]
    for package in [*dict.fromkeys(record["file"].split("/")[0] for record in records), ""]:
        mine, left = (sum(r["file"].startswith(package) for r in group) for group in (records, alive))
        lines.append(f"{package or 'all'}: {mine - left} of {mine} killed, {1 - left / max(mine, 1):.0%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--packages", nargs="+", choices=list(AREAS), default=["metrics", "capture", "callbacks"])
    parser.add_argument("--results", type=Path, help="JSON lines; default runs/mutants/seed-<seed>.jsonl")
    parser.add_argument("--files", type=int, help="run the nearest test files only: a quick first look, later extended")
    parser.add_argument("--report", action="store_true", help="print what the results hold, and run nothing")
    options = parser.parse_args()
    results = options.results or Path(f"runs/mutants/seed-{options.seed}.jsonl")
    if not options.report:
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        torch.set_num_threads(1)
        run(options.packages, options.count, options.seed, results, options.files)
    print(report(list(load(results).values())))


if __name__ == "__main__":
    main()
