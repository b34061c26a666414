"""Operations and reads of a check, counted and not timed.

On a GPU each operation costs a launch whatever its size, and each read of a value waits until the device has finished.
``python -m benchmarks.operations [CALLBACK ...]`` counts both, for the standard suite and for each of its callbacks
alone, on the CPU: there a check takes the ways that it takes on a GPU, as if no value could be looked at for nothing.
``--lines N`` adds the N lines of convscope's code from which most operations come.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import convscope
from benchmarks.data import cifar10
from benchmarks.networks import ResNet18
from benchmarks.overhead import CHUNK, check
from convscope.capture import HeldOut

READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"}
"""Operations for which the host waits until the device has finished, with those that choose by a mask."""
CHECKS: dict[str, Callable[[], list[Any]]] = {
    "standard suite": lambda: convscope.suite("standard"),
    "probe": lambda: [convscope.LayerProbe()],
    "correlation": lambda: [convscope.FilterCorrelation()],
    "importance": lambda: [convscope.FilterImportance()],
    "drift": lambda: [convscope.RepresentationDrift()],
    "health": lambda: [convscope.FilterHealth()],
}


class Counting(TorchDispatchMode):
    """Counts operations, those of forward and backward too, and reads.

    Attributes:
        operations: Number of operations by the line of convscope's code that they come from.
        reads: Number of reads by line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self._patches = ExitStack()

    def __enter__(self) -> Counting:
        for name in ("tolist", "cpu"):  # of which no operation is seen on the CPU
            self._patches.enter_context(mock.patch.object(torch.Tensor, name, self._reading(name)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        line, name = _line(), func.overloadpacket.__name__
        self.operations[line] += 1
        self.reads[line] += name in READS or (name.startswith("index") and _by_mask(args))
        return func(*args, **(kwargs or {}))

    def _reading(self, name: str) -> Callable[..., Any]:
        original = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.reads[_line()] += 1
            return original(tensor, *args, **kwargs)

        return read


def _by_mask(args: tuple[Any, ...]) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)


def _line() -> str:
    """The innermost line of convscope's own code that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").startswith("convscope."):
            return f"{frame.f_globals['__name__']}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def count(callbacks: list[Any], network: torch.nn.Module, heldout: HeldOut) -> Counting:
    """Operations and reads of one check, the third: by then all that is prepared once is there."""
    action = check(network, heldout, callbacks)
    with mock.patch("convscope._devices.IN_STEP", frozenset()):
        action()
        action()
        with Counting() as counting:
            action()
    return counting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *CHECKS], metavar="CALLBACK", help=", ".join(CHECKS))
    parser.add_argument("--lines", type=int, default=0, help="lines of code to list (default none)")
    parser.add_argument("--samples", type=int, default=1024, help="held-out images of a check (default 1024)")
    options = parser.parse_args()
    images, labels, origin = cifar10(options.samples, "train")
    heldout = HeldOut((images, labels), size=options.samples, batch_size=CHUNK)
    heldout.prepare()
    print(f"One check of {options.samples} images ({origin}) in chunks of {CHUNK}, ResNet-18, 20 conv layers\n")
    print("| check | operations | reads |\n|---|---|---|")
    for name in options.names or CHECKS:
        found = count(CHECKS[name](), ResNet18(4), heldout)
        print(f"| {name} | {found.operations.total():,} | {found.reads.total():,} |", flush=True)
        for line, operations in found.operations.most_common(options.lines):
            print(f"    {operations:6} operations, {found.reads[line]:4} reads: {line}")


if __name__ == "__main__":
    main()
