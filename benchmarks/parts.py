"""Part interpretability against what is known: planted part detectors, textures, and the cost of a check.

Run ``python -m benchmarks.parts`` from the repository; ``--only planted`` or ``--only cost`` for one part. Prints
Markdown tables; docs/metrics/part-interpretability.md holds what one run printed.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

import convscope
from benchmarks.data import cifar10
from benchmarks.measure import machine, median, ratio
from benchmarks.networks import ResNet18
from benchmarks.overhead import CHUNK, bare_forward, bare_training, check, device
from convscope.capture import HeldOut
from convscope.metrics.functional import part_maps, part_scores

IMAGES, SIDE, FILTERS = 1024, 14, 8


def planted(seed: int) -> tuple[torch.Tensor, nn.Conv2d, nn.Conv2d, torch.Tensor]:
    """Images with small patterns at random places in half of them, two layers of filters, and the best maps there are.

    The detectors are the patterns themselves, with a bias that leaves nothing else above zero; the textures are
    random filters of the same norm. The best maps have one cell at each pattern's centre and nothing else.
    """
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(FILTERS, 1, 3, 3, generator=generator)
    patterns /= patterns.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    images = 0.05 * torch.randn(IMAGES, 1, SIDE, SIDE, generator=generator)
    best = torch.zeros(IMAGES, FILTERS, SIDE, SIDE)
    for image, ideal in zip(images, best, strict=True):
        for pattern, cell in zip(patterns, ideal, strict=True):
            if torch.rand((), generator=generator) < 1 / 2:
                row, column = torch.randint(SIDE - 2, (2,), generator=generator).tolist()
                image[0, row : row + 3, column : column + 3] += pattern[0]
                cell[row + 1, column + 1] = 1
    detectors, textures = (nn.Conv2d(1, FILTERS, 3, padding=1) for _ in range(2))
    with torch.no_grad():
        detectors.weight.copy_(patterns)
        detectors.bias.fill_(-0.75)
        textures.weight.copy_(torch.randn(patterns.shape, generator=generator))
        textures.weight /= textures.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        textures.bias.zero_()
    return images, detectors, textures, best


def loss_of(activation: torch.Tensor) -> float:
    """Median filter loss at one mean total of every filter's maps."""
    return float(part_scores(part_maps(activation.detach().relu()), "total").filter_loss.median())


def compare_planted(seeds: int) -> None:
    """Do part detectors score nearer to the bound than textures?"""
    found = []
    for seed in range(seeds):
        images, detectors, textures, best = planted(seed)
        found.append([loss_of(maps) for maps in (best, detectors(images), textures(images))])
    kept = sum(part < texture for _, part, texture in found)
    bound = -torch.tensor(float(SIDE * SIDE + 1)).log().item()
    print(f"\n### Planted parts, {IMAGES} images of {SIDE} × {SIDE}, {FILTERS} filters, {seeds} seeds\n")
    print("| filters | median filter loss, nats | least | greatest |\n|---|---|---|---|")
    for name, column in (("the parts' own places", 0), ("part detectors", 1), ("textures", 2)):
        values = torch.tensor([row[column] for row in found])
        print(f"| {name} | {values.median():.2f} | {values.min():.2f} | {values.max():.2f} |")
    print(f"\nThe bound is {bound:.2f}. Part detectors score lower in {kept} of {seeds} seeds.", flush=True)


def compare_cost(samples: int, repeats: int) -> None:
    """Time of a check of part interpretability, beside bare training and a bare forward pass."""
    images, labels, origin = cifar10(samples, "train")
    network = ResNet18().to(device())
    heldout = HeldOut((images, labels), size=samples, batch_size=CHUNK)
    heldout.prepare()
    actions = {
        "training forward + backward": bare_training(network, images, labels),
        "forward": bare_forward(network, images),
        "shared pass alone": check(network, heldout, [_Nothing()]),
        "parts, no proxy": check(network, heldout, [convscope.PartInterpretability(proxy_images=0, pictured=0)]),
        "parts, proxy of 64 images": check(network, heldout, [convscope.PartInterpretability(pictured=0)]),
    }
    seconds = {name: [] for name in actions}  # type: ignore[var-annotated]
    for turn in range(repeats + 1):
        for name, action in actions.items():
            began = time.process_time()  # of this process alone, whatever else the machine does
            action()
            if turn > 0:
                seconds[name].append(time.process_time() - began)
    base = "training forward + backward"
    print(f"\n### One check on {samples} images ({origin}), ResNet-18, 20 conv layers, {repeats} rounds, CPU seconds\n")
    print(f"| what | median CPU s | ÷ {base} | beyond the shared pass, ÷ {base} |\n|---|---|---|---|")
    for name in seconds:
        pairs = zip(seconds[name], seconds["shared pass alone"], seconds[base], strict=True)
        beyond = median([(one - alone) / whole for one, alone, whole in pairs])
        print(
            f"| {name} | {median(seconds[name]):.2f} | {ratio(seconds, name, base):.3f} | {beyond:+.3f} |", flush=True
        )


class _Nothing(convscope.LayerObserver):
    """Sees every layer and does nothing: the shared pass alone."""

    family = "nothing"

    def begin(self, layers: list[convscope.Layer], samples: int) -> None:
        """Nothing to make."""

    def compute(self, layer: convscope.Layer) -> None:
        """Nothing to tell."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("planted", "cost"), help="one part of the benchmark")
    parser.add_argument("--seeds", type=int, default=20, help="of the planted parts (default 20)")
    parser.add_argument("--samples", type=int, default=512, help="held-out images of a check (default 512)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are counted (default 3)")
    options = parser.parse_args()
    print(f"Machine: {machine()}")
    if options.only in (None, "planted"):
        compare_planted(options.seeds)
    if options.only in (None, "cost"):
        compare_cost(options.samples, options.repeats)


if __name__ == "__main__":
    main()
