"""Alerts of a recorded run: our rules, and rivals that see the validation loss or the batch losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping

from benchmarks.fault_incidents import incidents, messages
from convscope.alerts.alert import Alert
from convscope.alerts.detectors import CUSUM, EWMA, Detector, PageHinkley, RelativeDrop, RobustZ, Threshold

RunRecord = dict[str, Any]
OURS = "convscope rules"


def alerts(record: RunRecord, severities: tuple[str, ...] = ("warning", "critical")) -> list[Alert]:
    """Alerts of ``DriftAlert()`` in that run, in the order in which they came."""
    found = sorted((alert for one in incidents(record) for alert in one.alerts), key=lambda alert: alert.check)
    return [alert for alert in found if alert.severity in severities]


def our_alarms(record: RunRecord) -> list[int]:
    """Checks at which ``DriftAlert()`` would have said something: an incident opened, or become critical."""
    return messages(record)


def early_stopping(record: RunRecord) -> list[int]:
    """Lightning's own, ``val_loss`` with patience 3; it ends the run, so it fires once at most."""
    stopper = EarlyStopping("val_loss", patience=3)
    for epoch, loss in enumerate(_val_loss(record)):
        if stopper._evaluate_stopping_criteria(torch.tensor(loss))[0]:
            return [epoch]
    return []


def spike_detection(record: RunRecord) -> list[int]:
    """Lightning's own, on batch losses, as it ran; it ends the run, so it fires once at most."""
    return [] if record["spike"] is None else [record["spike"]]


def z_score(record: RunRecord, limit: float = 3.0, window: int = 5) -> list[int]:
    """Validation loss more than three standard deviations above the mean of its last five values."""
    losses = _val_loss(record)
    return [
        epoch
        for epoch in range(window, len(losses))
        if _is_outlier(losses[epoch], losses[epoch - window : epoch], limit)
    ]


def _is_outlier(value: float, past: list[float], limit: float) -> bool:
    if not all(map(math.isfinite, [value, *past])):
        return not math.isfinite(value)
    return value > statistics.fmean(past) + limit * statistics.stdev(past)


def _detector(make: Callable[[], Detector]) -> Callable[[RunRecord], list[int]]:
    def alarms(record: RunRecord) -> list[int]:
        detector = make()
        return [
            epoch
            for epoch, loss in enumerate(_val_loss(record))
            if not math.isfinite(loss) or detector.update(loss).fired
        ]

    return alarms


def _val_loss(record: RunRecord) -> list[float]:
    return [check["val_loss"] for check in record["checks"]]


# What each does with val_loss alone. A value that is not finite counts for all of them.
RIVALS: dict[str, Callable[[RunRecord], list[int]]] = {
    "EarlyStopping, patience 3": early_stopping,
    "SpikeDetection": spike_detection,
    "z-score of val_loss": z_score,
    "threshold (val_loss > log 10)": _detector(lambda: Threshold(limit=math.log(10), warm_up=2)),
    "relative rise of val_loss, 30 %": _detector(lambda: RelativeDrop(limit=0.3, direction="up", warm_up=3)),
    "robust z of val_loss": _detector(lambda: RobustZ(window=6, warm_up=4, direction="up", least_scale=0.01)),
    "EWMA of val_loss": _detector(lambda: EWMA(warm_up=4, direction="up", least_scale=0.01)),
    "CUSUM of val_loss": _detector(lambda: CUSUM(warm_up=4, direction="up", least_scale=0.01)),
    "Page–Hinkley of val_loss": _detector(lambda: PageHinkley(limit=0.3, delta=0.02, warm_up=4, direction="up")),
}
EVERYBODY: dict[str, Callable[[RunRecord], list[int]]] = {OURS: our_alarms, **RIVALS}


def delay(record: RunRecord, alarms: list[int]) -> int | None:
    """Checks between the first one after the fault and the first alarm from then on; None where there is none."""
    return next((alarm - record["begins"] for alarm in alarms if alarm >= record["begins"]), None)
