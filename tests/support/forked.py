"""Programs forked from a process that has imported everything already: importing takes longer than most of them.

A program runs as ``python -m module`` does, in a process of its own with its own arguments, environment, folder and
streams. Several ranks of one program come from processes with different hash seeds, as separately started ones have.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import convscope

ROOT = Path(__file__).parents[2]
_IMPORTED = (
    "lightning.pytorch.loggers", "tensorboard.backend.event_processing.event_accumulator", "torch.distributed",
    "convscope.callbacks", "tests.callbacks.conftest", "tests.callbacks.test_tasks",
)  # fmt: skip
_PARENTS: list[subprocess.Popen[str]] = []
"""Processes that have imported everything, by rank; they end with this process, whose pipe they read."""


def run(program: str, *arguments: Any, folder: Path, ranks: int = 1, timeout: float = 150) -> list[str]:
    """Run a module, or a file that ends in ``.py``, in every rank at once; each rank's printed lines.

    Raises:
        AssertionError: if a rank fails, with its error, or takes longer than ``timeout`` seconds.
    """
    environment = {"OMP_NUM_THREADS": "1", **(_of_all_ranks(ranks) if ranks > 1 else {})}
    streams = [(folder / f"out-{rank}.txt", folder / f"err-{rank}.txt") for rank in range(ranks)]
    for rank, (out, err) in enumerate(streams):
        mine = {**environment, "LOCAL_RANK": str(rank)} if ranks > 1 else environment
        asked = {"argv": [program, *map(str, arguments)], "environment": mine, "out": str(out), "err": str(err)}
        _ask(rank, {**asked, "seconds": int(timeout)})
    codes = [_answer(rank, timeout) for rank in range(ranks)]
    assert codes == [0] * ranks, [
        (code, err.read_text()[-3000:]) for code, (_, err) in zip(codes, streams, strict=True)
    ]
    return [out.read_text() for out, _ in streams]


def _of_all_ranks(ranks: int) -> dict[str, str]:
    """What Lightning's launcher, torchrun and Slurm tell a process about the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(ranks)}


def _ask(rank: int, request: dict[str, Any]) -> None:
    while len(_PARENTS) <= rank:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(len(_PARENTS) + 1)}
        command = [sys.executable, "-m", "tests.support.forked"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        _PARENTS.append(subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes))
    pipe = _PARENTS[rank].stdin
    assert pipe is not None
    print(json.dumps(request), file=pipe, flush=True)


def _answer(rank: int, timeout: float) -> int:
    pipe = _PARENTS[rank].stdout
    assert pipe is not None
    if not select.select([pipe], [], [], timeout)[0]:
        for parent in _PARENTS:  # with what it has forked
            os.killpg(parent.pid, signal.SIGKILL)
        _PARENTS.clear()
        raise AssertionError(f"rank {rank} has not ended after {timeout} s")
    return int(pipe.readline())


def _serve() -> None:
    """Import what programs need, then fork one for every line read and answer with its exit code."""
    for name in _IMPORTED:
        importlib.import_module(name)
    convscope.suite("full")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _become(argv: list[str], environment: dict[str, str], out: str, err: str, seconds: int) -> None:
    """Be the program that was asked for, to the end of the process."""
    signal.alarm(seconds + 10)  # whoever asked may be gone by then
    os.environ.update(environment)
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = argv
    code = 1
    try:
        if argv[0].endswith(".py"):
            runpy.run_path(argv[0], run_name="__main__")
        else:
            runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
