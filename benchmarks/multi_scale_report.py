"""The page on the validation of multi-scale interpretation, from the records of its runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

import convscope
from benchmarks.measure import machine
from convscope.alerts.watch import Watch

Record = dict[str, Any]
RULES = ("explanation_jump", "explanation_focus", "explanation_collapse")
DROP = 0.05  # of the best validation accuracy so far: from there on it shows


def report(records: list[Record]) -> str:
    """Markdown; what has not been run is not there, and the number of runs is in each row."""
    parts = [
        "# Is multi-scale interpretation right?\n",
        "Written by `python -m benchmarks.multi_scale --report` from the records of `python -m "
        "benchmarks.multi_scale`: "
        f"{len(records)} runs, {sum(r['cpu_seconds'] for r in records) / 60:.0f} minutes of one core. {machine()}. "
        "Networks are small (12 filters in the first layer), images 32 × 32 (CIFAR-10 in the shortcut runs 16 "
        "× 16, digits "
        "8 × 8); intervals are the least and the greatest of the runs.\n",
        _planted(records),
        _deletion(records),
        _randomised(records),
        _shortcut(records),
        _cost(records),
        _missing(records),
    ]
    return "\n".join(part for part in parts if part)


def _missing(records: list[Record]) -> str:
    """Which parts have no run yet: what is not measured is not claimed."""
    parts = {
        "planted/": "planted evidence, and layers drawn again",
        "natural/": "deletion on CIFAR-10",
        "shortcut/": "the planted shortcut",
        "cost/": "cost",
    }
    without = [name for begins, name in parts.items() if not _of(records, begins)]
    return f"## Not measured yet\n\n{'; '.join(without)}.\n" if without else ""


def _of(records: list[Record], begins: str) -> list[Record]:
    return [record for record in records if record["key"].startswith(begins)]


def _spread(values: Iterable[float]) -> str:
    known = list(values)
    if len(known) == 1:
        return f"{known[0]:.2f}"
    return f"{statistics.mean(known):.2f} ({min(known):.2f} to {max(known):.2f})"


def _rows(head: str, rows: list[str]) -> str:
    return f"{head}\n|{'---|' * (head.count('|') - 1)}\n" + "\n".join(rows) + "\n"


def _planted(records: list[Record]) -> str:
    rows = []
    for task in ("digits", "quarters"):
        for net in ("vgg_bn", "resnet_bn"):
            runs = _of(records, f"planted/{task}/{net}/")
            if runs:
                fine = _spread(r["after"]["fine"] for r in runs) if task == "quarters" else "–"
                within = _spread(r["after"]["fine_within"] for r in runs) if task == "quarters" else "–"
                cells = [
                    _spread(r["accuracy"] for r in runs),
                    _spread(r["before"]["coarse"] for r in runs),
                    _spread(r["after"]["coarse"] for r in runs),
                    fine,
                    within,
                ]
                rows.append(f"| {task}, {net}, {len(runs)} runs | " + " | ".join(cells) + " |")
    if not rows:
        return ""
    return (
        "## Planted evidence\n\nOne region alone decides the class: a digit in one of 16 coarse cells "
        "(`digits`), or one of "
        "ten patterns in a quarter of one (`quarters`), on a ground of smooth noise that varies by as much. "
        "Shares of 24 "
        "test images in which the right super-pixel has the greatest importance. Chance is 0.06 at the coarse "
        "scale, 0.02 "
        "at the fine one, and 0.25 among the quarters of the right cell. Wanted: at least 0.95 at the coarse "
        "scale, 0.80 "
        "for the quarter.\n\n"
        + _rows(
            "| | accuracy | coarse, before training | coarse, trained | fine, trained | quarter of its cell |", rows
        )
    )


def _deletion(records: list[Record]) -> str:
    rows = []
    for begins in ("natural/vgg_bn/", "natural/resnet_bn/", "planted/digits/", "planted/quarters/"):
        runs = _of(records, begins)
        if runs:
            cells = [
                _spread(r["scalars"]["deletion"] for r in runs),
                _spread(r["scalars"]["deletion_gradient"] for r in runs),
                _spread(r["lime"]["deletion"] for r in runs),
                _spread(r["scalars"]["deletion_random"] for r in runs),
                _spread(r["scalars"]["insertion"] for r in runs),
                _spread(r["scalars"]["insertion_gradient"] for r in runs),
                _spread(r["lime"]["insertion"] for r in runs),
                _spread(r["scalars"]["insertion_random"] for r in runs),
            ]
            best = sum(
                r["scalars"]["deletion"] < min(r["scalars"]["deletion_gradient"], r["scalars"]["deletion_random"])
                for r in runs
            )
            lime = sum(r["scalars"]["deletion"] < r["lime"]["deletion"] for r in runs)
            name = begins.strip("/").replace("natural/", "CIFAR-10, ")
            rows.append(f"| {name}, {len(runs)} runs | " + " | ".join(cells) + f" | {best} | {lime} |")
    if not rows:
        return ""
    head = (
        "| | deletion | gradient × act. | LIME-like | random | insertion | gradient × act. | LIME-like | random | "
        "runs better than gradient and random | than LIME-like |"
    )
    return (
        "## Deletion and insertion\n\nArea under the class probability as fine super-pixels are switched off "
        "(deletion: "
        "smaller is better) or on (insertion: larger is better), most important first, on trained networks and "
        "images that "
        "they have right. Gradient × activation is that of the class's logit at the deep layer. LIME-like is "
        "scikit-learn's weighted Lasso with an intercept on the same copies, fine cells alone.\n\n" + _rows(head, rows)
    )


def _randomised(records: list[Record]) -> str:
    runs = [record["randomised"] for record in _of(records, "planted/")]
    if not runs:
        return ""
    last = max(len(rows) for rows in runs)
    named = ["none, one copy fewer", "the last", "the later half", "all"]
    rows = []
    for place in range(last):
        values = [run[place]["rank_correlation"] for run in runs if place < len(run)]
        known = [value for value in values if value == value]
        rows.append(f"| {named[place]} | {_spread(known) if known else '–'} |")
    return (
        "## Layers drawn again\n\nThe sanity check of Adebayo et al. 2018 "
        "([1810.03292](https://arxiv.org/abs/1810.03292)): rank correlation of fine importances with those of the "
        f"trained network, {len(runs)} networks of the planted runs, 6 images each. An explanation that stays "
        f"the same "
        "when the network is replaced explains something else.\n\n"
        + _rows("| layers drawn again | rank correlation |", rows)
    )


def _first(values: list[float], begins: int, shows: Callable[[float, list[float]], bool]) -> int | None:
    """Epochs from ``begins`` to the first value that shows it, None where none does."""
    for epoch in range(begins, len(values)):
        if shows(values[epoch], values[:epoch]):
            return epoch - begins
    return None


def _fired(record: Record, name: str) -> dict[str, int]:
    """Epoch of the first alert of each rule, if the metrics of one callback were called ``multi_scale``."""
    watch, found = Watch([rule for rule in convscope.rules.default() if rule.name in RULES]), {}
    for epoch, check in enumerate(record["checks"]):
        own = {tag.replace(f"{name}/", "multi_scale/"): v for tag, v in check.items() if tag.startswith(f"{name}/")}
        for alert in watch.update(own | {"val_acc": check["val_acc"]}):
            found.setdefault(alert.rule, epoch)
    return found


def _shortcut(records: list[Record]) -> str:
    rows = []
    for strength in ("none", "weak", "medium", "strong"):
        runs = _of(records, f"shortcut/{strength}/")
        for name, label in (("multi_scale", "clean"), ("on_training", "training")):
            if runs:
                rows.append(
                    f"| {strength}, {label} images, {len(runs)} runs | " + " | ".join(_cells(runs, name)) + " |"
                )
    if not rows:
        return ""
    head = "| | val. accuracy shows it | importance at the corner shows it | " + " | ".join(RULES) + " |"
    return (
        "## A planted shortcut\n\nThe fault benchmark's `shortcut`: from some epoch on a share of the training "
        "images (0.3, "
        "0.7, 1) has a corner of 2 × 2 pixels that tells the class. Explained at each epoch are 8 clean "
        "validation images, "
        f"and 8 training images as the network sees them. Shown are runs, and epochs from the start (median): until "
        f"validation accuracy on clean images is {DROP:.2f} below its best; until the share of the importance "
        f"that lies at "
        "the corner is 0.1 above its largest before; until a rule fired (in healthy runs, `none`: false "
        "alarms, from any "
        "epoch).\n\n" + _rows(head, rows)
    )


def _cells(runs: list[Record], name: str) -> list[str]:
    accuracy, corner, fired = [], [], {rule: [] for rule in RULES}
    for record in runs:
        begins = record["begins"]
        start = 4 if begins is None else begins
        values = [check["val_acc"] for check in record["checks"]]
        accuracy.append(_first(values, start, lambda v, past: v < max(past) - DROP))
        shares = record["corner_clean" if name == "multi_scale" else "corner_training"]
        shares = shares[-len(values) :]  # without the check before training
        corner.append(_first(shares, start, lambda v, past: v > max(past) + 0.1))
        for rule, epoch in _fired(record, name).items():
            if begins is None or epoch >= begins:
                fired[rule].append(epoch - (begins or 0))
    return [_delays(accuracy), _delays(corner), *(_delays(found) if found else "0" for found in fired.values())]


def _delays(found: list[int | None]) -> str:
    known = [value for value in found if value is not None]
    return f"{len(known)}, after {statistics.median(known):.0f}" if known else "0"


def _cost(records: list[Record]) -> str:
    rows = [
        f"| ResNet-18 of width {r['width']} | {r['bare']:.1f} | {r['check']:.2f} | {r['solver']:.3f} |"
        for r in _of(records, "cost/")
    ]
    if not rows:
        return ""
    return (
        "## Cost\n\nChecks of 8 images by 512 copies at 32 × 32, and by 41 more for deletion and insertion, in units "
        "of 4,096 bare forwards in chunks of 128; CPU seconds of one thread, medians of five in turn, after an "
        "epoch on 2,000 CIFAR-10 images. Wanted: at most 1.2, and 0.05 for the solver.\n\n"
        + _rows("| network | 4,096 bare forwards, s | check | solver |", rows)
    )
