"""Single runs of the validation of multi-scale interpretation, each to one plain record."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.linear_model import Lasso
from torch import nn

from benchmarks.data import cifar10
from benchmarks.fault_runs import _quiet
from benchmarks.multi_scale_programs import (
    EPOCHS,
    Classifier,
    Config,
    Shortcut,
    build_net,
    draw_config,
    fit,
    load_images,
)
from benchmarks.multi_scale_programs import (
    SHARES as MARKED,
)
from benchmarks.networks import ResNet18
from convscope import HeldOut, MultiScaleInterpretation
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import Findings, Moment
from convscope.callbacks.engine.planning import make_plan
from convscope.callbacks.engine.shared_pass import run_pass
from convscope.callbacks.parts.explanations import Explanations
from convscope.capture import Subject
from convscope.explainers.segments import segment
from convscope.explainers.switches import distances, draw_switches, fill_image, nearness, switched
from convscope.metrics import MultiScaleFit
from convscope.metrics.functional import switching_area

Record = dict[str, Any]
NETS = ("vgg_bn", "resnet_bn")
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
TEST_IMAGES = 24
RIVALS = 12  # images on which orders are compared
REPEATS = 5


def ready(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, **arguments: Any
) -> tuple[MultiScaleInterpretation, Callable[[], dict[str, float]]]:
    """A callback that explains all images, and its check without a trainer."""
    heldout = HeldOut((x, y), size=len(x), batch_size=128, stratify=False, classes=10, logits=lambda output: output)
    heldout.prepare()
    subject = Subject(net.eval(), net, torch.device("cpu"))
    callback = MultiScaleInterpretation(heldout=heldout, images=len(x), on_error="raise", **arguments)
    plan = make_plan(subject, heldout, [callback])
    if callback not in plan.observers:
        raise RuntimeError(f"nothing is explained: {plan.answers} {plan.messages}")

    def check() -> dict[str, float]:
        run_pass(plan, [callback], Failures(raising=True), lambda value: [value])
        return callback.summarise({})

    return callback, check


def explain(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, **arguments: Any
) -> tuple[Explanations, dict[str, float]]:
    """One check of all images without a trainer."""
    callback, check = ready(net, x, y, **arguments)
    scalars = check()
    callback.remember(Findings(callback.name), Moment("validation", 0, 0))
    return callback._rows[-1], scalars


# Planted evidence: one region alone decides the class.


def planted(task: str, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images ``(N, 3, 32, 32)``, labels, and the fine cell ``(N, 2)`` (row and column of 8 × 8) where the evidence is.

    ``digits``: one of scikit-learn's digits in a coarse cell of smooth noise. ``quarters``: one of ten fixed patterns
    of 4 × 4 pixels, a quarter of a coarse cell. Evidence and ground vary by as much, so that contrast alone does not
    give it away.
    """
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, 32, 32, generator=draw)
    x = 2 * F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="reflect"), 3, 1)  # standard deviation 0.7
    if task == "digits":
        data = load_digits()
        number = torch.randint(len(data.target), (count,), generator=draw)
        patches = torch.tensor(data.images / 8 - 0.5, dtype=torch.float32)[number][:, None].expand(-1, 3, -1, -1)
        y, cell, side = torch.tensor(data.target)[number], 2 * torch.randint(4, (count, 2), generator=draw), 8
    else:
        y = torch.randint(10, (count,), generator=draw)
        patterns = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(99)).sign() * 0.7
        patches, cell, side = patterns[y], torch.randint(8, (count, 2), generator=draw), 4
    for image, patch, (row, column) in zip(x, patches, (4 * cell).tolist(), strict=True):
        image[:, row : row + side, column : column + side] = patch
    return x, y, cell


def _net(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    config = Config(seed, kind, "cifar", "adamw", 64, "constant", False, 0.0, 12)
    return build_net(config)


def _fit(net: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        net.train()
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
    net.eval()


def _accuracy(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((net.eval()(x).argmax(1) == y).float().mean())


def _found(row: Explanations, cell: torch.Tensor) -> Record:
    """Shares of the images in which the right coarse super-pixel and the right fine one come first."""
    coarse = cell[:, 0] // 2 * 4 + cell[:, 1] // 2
    # Fine cells are numbered within their coarse one.
    fine = 4 * coarse + cell[:, 0] % 2 * 2 + cell[:, 1] % 2
    return {
        "coarse": float((row.coarse.argmax(1) == coarse).float().mean()),
        "fine": float((row.fine.argmax(1) == fine).float().mean()),
        "fine_within": float(
            (row.fine.view(-1, 16, 4).argmax(2).gather(1, coarse[:, None])[:, 0] == fine % 4).float().mean()
        ),
    }


def planted_run(task: str, kind: str, seed: int) -> Record:
    """Before training and after it: is the region found? With the rivals of deletion, and the randomisation test."""
    net = _net(kind, seed)
    x, y, _ = planted(task, 2000, seed)
    x_test, y_test, cell = planted(task, TEST_IMAGES, 1000 + seed)
    before = _found(explain(net, x_test, y_test)[0], cell)
    _fit(net, x, y, 8)
    first, rest = slice(0, RIVALS), slice(RIVALS, None)
    row, scalars = explain(net, x_test[first], y_test[first])
    found = [_found(row, cell[first]), _found(explain(net, x_test[rest], y_test[rest])[0], cell[rest])]
    shares = RIVALS / TEST_IMAGES, 1 - RIVALS / TEST_IMAGES
    return {
        "accuracy": _accuracy(net, x_test, y_test),
        "before": before,
        "after": {name: sum(s * part[name] for s, part in zip(shares, found, strict=True)) for name in before},
        "scalars": scalars,
        "lime": lime(net, x_test[first], y_test[first]),
        "randomised": randomised(net, x_test[:6], y_test[:6], row.fine[:6]),
    }


def natural_run(kind: str, seed: int) -> Record:
    """Deletion and its rivals on CIFAR-10 images."""
    net = _net(kind, seed)
    x, y, origin = cifar10(3000)
    x_test, y_test, _ = cifar10(400, "test")
    _fit(net, x, y, 8)
    with torch.no_grad():
        right = (net(x_test).argmax(1) == y_test).nonzero().flatten()[:RIVALS]
    _, scalars = explain(net, x_test[right], y_test[right])
    lasso = lime(net, x_test[right], y_test[right])
    return {"accuracy": _accuracy(net, x_test, y_test), "scalars": scalars, "lime": lasso, "images": origin}


def lime(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Areas of a rival of one scale, as LIME: a weighted Lasso with intercept on the same copies, fine cells alone."""
    areas = torch.zeros(2, dtype=torch.float64)
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        found, off = segment(image), fill_image(image, "zero")
        on = draw_switches(512, 64, 0, number)
        probability = _probabilities(net, switched(image, off, found.fine, on), int(label))
        weight = nearness(on, distances(image, off, found.fine, 64))
        lasso = Lasso(alpha=1e-3, max_iter=5000)
        lasso.fit(on.double().numpy(), probability.numpy(), sample_weight=weight.numpy())
        ranks = torch.tensor(-lasso.coef_).argsort(stable=True).argsort()
        counts = [round(share * 64) for share in SHARES]
        removed = torch.stack([ranks < count for count in counts])
        for place, shown in enumerate((~removed, removed)):
            areas[place] += switching_area(
                _probabilities(net, switched(image, off, found.fine, shown), int(label)), SHARES
            )
    return {"deletion": float(areas[0] / len(x)), "insertion": float(areas[1] / len(x))}


def _probabilities(net: nn.Module, copies: torch.Tensor, label: int) -> torch.Tensor:
    with torch.no_grad():
        return net(copies).softmax(1)[:, label].double()


def randomised(net: nn.Module, x: torch.Tensor, y: torch.Tensor, fine: torch.Tensor) -> list[Record]:
    """Rank correlation with the trained network's explanations as layers are drawn again, the last first."""
    changed, rows = copy.deepcopy(net), []
    again, _ = explain(net, x, y, samples=511)  # the noise of another number of draws
    rows.append({"layers": 0, "rank_correlation": _agreement(again.fine, fine)})
    layers = [module for module in changed.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    torch.manual_seed(0)
    for done, layer in enumerate(reversed(layers), 1):
        layer.reset_parameters()
        if done in (1, len(layers) // 2, len(layers)):
            row, _ = explain(changed, x, y)
            rows.append({"layers": done, "of": len(layers), "rank_correlation": _agreement(row.fine, fine)})
    return rows


def _agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    found = [float(spearmanr(one, other).statistic) for one, other in zip(a, b, strict=True)]
    known = [value for value in found if value == value]
    return sum(known) / len(known) if known else float("nan")


# A planted shortcut: a corner that tells the class, in training images alone.


class _Watches(L.Callback):
    """Every value of the run, by epoch."""

    def __init__(self) -> None:
        self.checks: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.checks.append({tag: float(f"{float(v):.5g}") for tag, v in trainer.callback_metrics.items()})


def shortcut_run(strength: str, seed: int) -> Record:
    """The fault benchmark's ``shortcut`` (``none``: a healthy run), explained on clean images and on training ones."""
    config = draw_config(2 * seed, ("plain", "vgg_bn", "resnet_bn", "gelu"))
    L.seed_everything(seed, verbose=False)
    begins = 5 + seed % 4
    shortcut = None if strength == "none" else Shortcut(MARKED[strength], begins, seed)
    images = load_images(config.data)
    module, recorder = Classifier(config, shortcut), _Watches()
    shared: dict[str, Any] = {
        "samples": 256,
        "every_n_epochs": 1,
        "on_start": True,
        "pictures": False,
        "on_error": "raise",
    }
    clean = HeldOut((images.x_val, images.y_val), size=64)
    # What the training loop feeds from then on: the same number for a sample in every epoch.
    index = torch.arange(64)
    seen = images.x[:64].clone(), images.y[:64]
    if shortcut is not None:
        seen = shortcut.on(*seen, index), images.y[:64]
    trained_on = HeldOut(seen, size=64, stratify=False)
    callbacks = [
        MultiScaleInterpretation(heldout=clean, **shared),
        MultiScaleInterpretation(heldout=trained_on, name="on_training", **shared),
        recorder,
    ]
    with TemporaryDirectory() as folder:  # for the record
        fit(module, images, callbacks, folder)
    corner = [
        [float(_at_corner(row)) for row in callback._rows]
        for callback in callbacks
        if isinstance(callback, MultiScaleInterpretation)
    ]
    return {
        "begins": None if strength == "none" else begins,
        "config": config.as_dict(),
        "checks": recorder.checks,
        "corner_clean": corner[0],
        "corner_training": corner[1],
        "epochs": EPOCHS,
    }


def _at_corner(row: Explanations) -> torch.Tensor:
    """Mean over images of the importance's share at the first fine super-pixel, the upper left corner."""
    size = row.fine.abs()
    return (size[:, 0] / size.sum(1).clamp(min=1e-12)).mean()


# Cost.


def cost_run(width: int) -> Record:
    """CPU seconds of checks of 8 images by 512 copies, of as many bare forwards in turn, and of the solver in them."""
    torch.manual_seed(0)
    net, (x, y, _), copies = ResNet18(width), cifar10(2000), torch.randn(128, 3, 32, 32)
    _fit(net, x, y, 1)
    callback, check = ready(net, x[:8], y[:8])
    rows = []
    for _ in range(REPEATS + 1):
        with _timed_solver() as solving:
            whole = _seconds(check)
        rows.append((_seconds(lambda: _forwards(net, copies)), whole, solving[0]))
    (bare, _, _), *_ = sorted(rows[1:])  # the first is a warm-up
    ratios = {name: statistics.median(row[place] / row[0] for row in rows[1:]) for place, name in _RATIOS}
    return {"width": width, "bare": bare, "images": callback.images, **ratios}


_RATIOS = (1, "check"), (2, "solver")


def _forwards(net: nn.Module, copies: torch.Tensor) -> None:
    with torch.no_grad():
        for _ in range(8 * 512 // len(copies)):
            net(copies)


def _seconds(action: Callable[[], Any]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


@contextmanager
def _timed_solver() -> Iterator[list[float]]:
    """Seconds of the fits in the block."""
    original, spent = MultiScaleFit.compute, [0.0]

    def timed(self: Any) -> Any:
        began = time.process_time()
        try:
            return original(self)
        finally:
            spent[0] += time.process_time() - began

    MultiScaleFit.compute = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        MultiScaleFit.compute = original  # type: ignore[method-assign]


def run(key: str) -> Record:
    """The run that a key names: ``planted/digits/vgg_bn/0``, ``shortcut/weak/3``, ``natural/vgg_bn/0``, ``cost/16``."""
    began, (part, *rest) = time.process_time(), key.split("/")
    with _quiet():
        if part == "planted":
            found = planted_run(rest[0], rest[1], int(rest[2]))
        elif part == "natural":
            found = natural_run(rest[0], int(rest[1]))
        elif part == "shortcut":
            found = shortcut_run(rest[0], int(rest[1]))
        else:
            found = cost_run(int(rest[0]))
    return {"key": key, **found, "cpu_seconds": round(time.process_time() - began, 1)}
