"""Alarms of our rules and of rivals in a recorded run, each at settings from sensitive to blunt."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping

from benchmarks.fault_incidents import messages
from convscope.alerts.detectors import CUSUM, EWMA, Detector, PageHinkley, RelativeDrop

RunRecord = dict[str, Any]
OURS = "convscope rules"


@dataclass(frozen=True)
class Rival:
    """A way to raise alarms: its settings, and the checks of its alarms in a run at one of them."""

    name: str
    settings: Sequence[float]
    alarms: Callable[[RunRecord, float], list[int]]


def alarms_of(rival: Rival, record: RunRecord, setting: float) -> list[int]:
    """The checks of its alarms, kept in the record: every table asks for them, at every setting."""
    kept: dict[tuple[str, float], list[int]] = record.setdefault("alarms", {})
    if (rival.name, setting) not in kept:
        kept[rival.name, setting] = rival.alarms(record, setting)
    return kept[rival.name, setting]


def early_stopping(record: RunRecord, patience: float) -> list[int]:
    """Lightning's own, on ``val_loss``; it ends the run, so it fires once at most."""
    stopper = EarlyStopping("val_loss", patience=int(patience))
    for check, loss in enumerate(_val_loss(record)):
        if stopper._evaluate_stopping_criteria(torch.tensor(loss))[0]:
            return [check]
    return []


def spike_detection(record: RunRecord, _: float) -> list[int]:
    """Lightning's own, on batch losses, as it ran; it ends the run, so it fires once at most."""
    return [] if record["spike"] is None else [record["spike"]]


def z_score(record: RunRecord, limit: float, window: int = 5) -> list[int]:
    """Validation loss so many standard deviations above the mean of its last five values."""
    losses = _val_loss(record)
    return [
        check
        for check in range(window, len(losses))
        if _is_outlier(losses[check], losses[check - window : check], limit)
    ]


def _is_outlier(value: float, past: list[float], limit: float) -> bool:
    if not all(map(math.isfinite, [value, *past])):
        return not math.isfinite(value)
    return value > statistics.fmean(past) + limit * statistics.stdev(past)


def sentry_cam(record: RunRecord, tolerance: float, burn_in: int = 5, bad_checks: int = 2) -> list[int]:
    """SentryCam's rule (arXiv 2405.15135), rebuilt: after five checks two in a row at which the variance within classes
    rises or the distance of their centres falls, by more than a share. Classes only."""
    found, bad = [], 0
    for check in range(burn_in, len(record["features"])):
        before, now = record["features"][check - 1], record["features"][check]
        if now is None:
            return []
        spoilt = not all(map(math.isfinite, now)) or (
            now[0] > before[0] * (1 + tolerance) or now[1] < before[1] * (1 - tolerance)
        )
        bad = bad + 1 if spoilt else 0
        if bad >= bad_checks:
            found.append(check)
    return found


def auto_trainer(record: RunRecord, factor: float) -> list[int]:
    """AutoTrainer's five symptoms (Zhang et al., ICSE 2021), rebuilt from the series; ``factor`` widens its limits.

    Vanishing gradient: first over last layer below 1e-3. Exploding: above 70. Dying ReLU: 70 % of all filters dead.
    Oscillating loss: up and down by 3 % in more than half of the last 6 checks. Slow convergence: less than 1 point of
    accuracy (or 1 % of loss) gained in the last 5 checks.
    """
    return [check for check in range(3, len(record["checks"])) if any(_symptoms(record["checks"][: check + 1], factor))]


def _symptoms(past: list[dict[str, float]], factor: float) -> Iterator[bool]:
    now = past[-1]
    gradients = [value for tag, value in now.items() if tag.startswith("health/gradient_rms/")]
    dead = [value for tag, value in now.items() if tag.startswith("health/dead_filters/")]
    losses = [check["train_loss"] for check in past if "train_loss" in check]
    yield not all(map(math.isfinite, [*losses, now["val_loss"]]))
    yield len(gradients) > 1 and gradients[0] < 1e-3 / factor * gradients[-1]
    yield any(value > 70 * factor for value in gradients)
    yield bool(dead) and statistics.fmean(dead) > min(0.99, 0.7 * factor)
    steps = [later / earlier - 1 for earlier, later in zip(losses[-7:], losses[-6:], strict=False) if earlier]
    yield sum(step > 0.03 * factor for step in steps) > len(steps) / 2 > 2
    if len(past) > 5 and "val_acc" in now:
        yield now["val_acc"] - past[-6]["val_acc"] < 0.01 / factor and now["val_acc"] < 0.6
    elif len(past) > 5:
        yield now["val_loss"] > past[-6]["val_loss"] * (1 - 0.01 / factor)


def static_thresholds(record: RunRecord, factor: float) -> list[int]:
    """Fixed limits on what a trainer can log, as in DEFault: losses, gradients, updates, dead filters, accuracy."""
    return [check for check, now in enumerate(record["checks"]) if check > 1 and any(_beyond(now, factor))]


def _beyond(now: dict[str, float], factor: float) -> Iterator[bool]:
    yield not all(map(math.isfinite, now.values()))
    yield now["val_loss"] > 2.3 * factor
    yield now.get("train_loss", 0.0) > 2.3 * factor
    for tag, value in now.items():
        yield tag.startswith("health/update_ratio/") and (value > 1.0 * factor or value < 1e-4 / factor)
        yield tag.startswith("health/dead_filters/") and value > min(0.99, 0.5 * factor)
        yield tag.startswith("health/activation_rms/") and not 0.01 / factor < value < 20 * factor


def _detector(make: Callable[[float], Detector], tag: str = "val_loss") -> Callable[[RunRecord, float], list[int]]:
    def alarms(record: RunRecord, limit: float) -> list[int]:
        detector = make(limit)
        losses = [check.get(tag) for check in record["checks"]]
        return [
            check
            for check, loss in enumerate(losses)
            if loss is not None and (not math.isfinite(loss) or detector.update(loss).fired)
        ]

    return alarms


def _val_loss(record: RunRecord) -> list[float]:
    return [check["val_loss"] for check in record["checks"]]


_WIDTHS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0)
OUR_FACTORS = (0.71, 1.0, 1.41)
RIVALS = (
    Rival("EarlyStopping of val_loss", (1, 2, 3, 4, 5, 7, 10, 15), early_stopping),
    Rival("SpikeDetection", (1,), spike_detection),
    Rival("SentryCam's rule", (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8), sentry_cam),
    Rival("AutoTrainer's symptoms", _WIDTHS, auto_trainer),
    Rival("static thresholds", _WIDTHS, static_thresholds),
    Rival("z-score of val_loss", (2, 3, 4, 6, 8, 12, 20), z_score),
    Rival("relative rise of val_loss", (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0),
          _detector(lambda limit: RelativeDrop(limit=limit, direction="up", warm_up=3))),
    Rival("relative rise of train_loss", (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0),
          _detector(lambda limit: RelativeDrop(limit=limit, direction="up", warm_up=3), "train_loss")),
    Rival("EWMA of val_loss", (2, 3, 4, 6, 8, 12),
          _detector(lambda limit: EWMA(limit=limit, warm_up=4, direction="up", least_scale=0.01))),
    Rival("CUSUM of val_loss", (2, 4, 6, 8, 12, 20),
          _detector(lambda limit: CUSUM(limit=limit, warm_up=4, direction="up", least_scale=0.01))),
    Rival("Page-Hinkley of val_loss", (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0),
          _detector(lambda limit: PageHinkley(limit=limit, delta=0.02, warm_up=4, direction="up"))),
)  # fmt: skip
EVERYBODY = (Rival(OURS, OUR_FACTORS, messages), *RIVALS)


def delay(record: RunRecord, alarms: list[int]) -> int | None:
    """Checks between the first one after the fault and the first alarm from then on; None where there is none."""
    return next((alarm - record["begins"] for alarm in alarms if alarm >= record["begins"]), None)
