"""Cost of what DriftAlert looks at in training: batches and gradients, against the training step that they belong to.

    python -m benchmarks.training_looks

Seconds of the processor, medians over rounds, steps and looks in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from benchmarks.measure import interleaved, machine, median, ratio
from benchmarks.networks import ResNet18
from convscope.callbacks.parts.training_batches import TrainingBatches
from convscope.callbacks.parts.training_gradients import TrainingGradients

CASES = ((32, 128, 1), (96, 64, 2), (224, 32, 4))  # side of the images, batch, stride of the first convolution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"Machine: {machine()}\n")
    print("| images | batch | training step, s | look at the batch | look at the gradients |\n|---|---|---|---|---|")
    for side, batch, stride in CASES:
        seconds = interleaved(dict(_actions(side, batch, stride)), options.rounds, clock=time.process_time)
        shares = [f"{ratio(seconds, name, 'step'):.2%}" for name in ("batch", "gradients")]
        print(f"| {side} × {side} | {batch} | {median(seconds['step']):.2f} | {' | '.join(shares)} |", flush=True)


def _actions(side: int, batch: int, stride: int) -> Iterator[tuple[str, Callable[[], object]]]:
    network = ResNet18(stride=stride)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(batch, 3, side, side), torch.randint(10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    def look_at_batch() -> None:
        TrainingBatches().note([images, labels], 0)

    def look_at_gradients() -> None:
        TrainingGradients().note(network)  # its first step, which it always looks at

    yield from (("step", step), ("batch", look_at_batch), ("gradients", look_at_gradients))


if __name__ == "__main__":
    main()
