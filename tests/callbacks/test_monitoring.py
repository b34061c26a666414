"""Whoever monitors a value of ours finds one at every epoch: also where that epoch had no check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

import convscope
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import Plain, images

TAG = "probe/accuracy/output"

SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "every second epoch": ({"every_n_epochs": 2}, {}),
    "max_overhead": ({"max_overhead": 1e-6}, {}),
    "every second validation": ({"every_n_epochs": 3}, {"check_val_every_n_epoch": 2}),
    "no validation": ({"every_n_epochs": 2}, {"limit_val_batches": 0}),
    "several validations an epoch": ({"every_n_epochs": 2}, {"val_check_interval": 0.5}),
    "no sanity check": ({"every_n_epochs": 2}, {"num_sanity_val_steps": 0}),
    "steps alone": ({"every_n_epochs": 0, "every_n_train_steps": 7}, {}),
    "the start alone": ({"every_n_epochs": 0}, {}),
    "no start": ({"every_n_epochs": 3, "on_start": False}, {}),
    "no start, no validation": ({"every_n_epochs": 3, "on_start": False}, {"limit_val_batches": 0}),
}


class Plateau(Classifier):
    """A scheduler that follows a value of ours."""

    def __init__(self, interval: str = "epoch", frequency: int = 1) -> None:
        super().__init__(Plain(channels=3))
        self.interval, self.frequency = interval, frequency

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=1)
        how = {"monitor": TAG, "strict": True, "interval": self.interval, "frequency": self.frequency}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **how}}


class Seen(Callback):
    """The value at the end of each epoch, as others see it."""

    def __init__(self) -> None:
        self.values: list[float | None] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        value = trainer.callback_metrics.get(TAG)
        self.values.append(None if value is None else float(value))


def probe(**arguments: Any) -> Any:
    return convscope.LayerProbe(layers="net.conv1", pictures=False, **arguments)


def monitors(folder: Path) -> list[Any]:
    stopping = EarlyStopping(TAG, mode="max", patience=9, strict=True)
    return [stopping, ModelCheckpoint(folder, monitor=TAG, mode="max", save_top_k=2, save_last=True)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("first", [True, False], ids=["ours first", "ours last"])
def test_a_value_is_there_at_every_epoch(schedule: str, first: bool, fit: Any, tmp_path: Path) -> None:
    ours, trainer = SCHEDULES[schedule]
    callbacks = [probe(**ours), *monitors(tmp_path)] if first else [*monitors(tmp_path), probe(**ours)]
    seen = Seen()
    run = fit([*callbacks, seen], module=Plateau(), max_epochs=4, **trainer)
    assert run.trainer.global_step == 16
    assert None not in seen.values
    points = run.curve(TAG)
    assert len({step for step, _ in points}) == len(points)  # an epoch without a check writes no point
    assert float(run.trainer.callback_metrics[TAG]) == pytest.approx(points[-1][1])


def test_what_is_kept_is_the_last_check_and_no_point_is_written(fit: Any) -> None:
    seen = Seen()
    run = fit([probe(every_n_epochs=3), seen], module=Plateau(), max_epochs=5)
    start, later = run.curve(TAG)
    assert [start[0], later[0]] == [0, 11]
    assert seen.values == pytest.approx([start[1], start[1], later[1], later[1], later[1]])


@pytest.mark.parametrize("schedule", ["every second epoch", "max_overhead", "no validation", "steps alone"])
def test_a_value_is_there_after_a_resume(schedule: str, fit: Any, tmp_path: Path) -> None:
    ours, trainer = SCHEDULES[schedule]
    whole = fit([probe(**ours), *monitors(tmp_path / "a")], module=Plateau(), max_epochs=1, **trainer)
    assert TAG in whole.trainer.callback_metrics
    again = [*monitors(tmp_path / "b"), probe(**ours), seen := Seen()]
    run = fit(again, module=Plateau(), max_epochs=3, ckpt_path=tmp_path / "a/last.ckpt", **trainer)
    assert run.trainer.global_step == 12
    assert None not in seen.values


def test_what_is_kept_after_a_resume_is_the_last_value_of_before(fit: Any, tmp_path: Path) -> None:
    whole = fit([probe(every_n_epochs=4), *monitors(tmp_path / "a")], module=Plateau(), max_epochs=1)
    seen = Seen()
    again = [probe(every_n_epochs=4), seen]
    run = fit(again, module=Plateau(), max_epochs=3, ckpt_path=tmp_path / "a/last.ckpt")
    assert seen.values == pytest.approx([whole.curve(TAG)[0][1]] * 2)
    assert not run.events.Tags()["scalars"] or TAG not in run.events.Tags()["scalars"]


@pytest.mark.parametrize(("interval", "frequency"), [("step", 1), ("step", 3), ("epoch", 2)])
def test_a_scheduler_that_looks_at_steps(interval: str, frequency: int, fit: Any) -> None:
    run = fit([probe(every_n_epochs=2)], module=Plateau(interval, frequency), max_epochs=2)
    assert run.trainer.global_step == 8


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield from zip(*images(30, seed=1), strict=True)


def test_a_stream_whose_start_check_could_not_be_made_is_checked_at_the_first_epoch(fit: Any, tmp_path: Path) -> None:
    data = (loaders()[0], DataLoader(Stream(), 8))
    callbacks = [probe(every_n_epochs=3, heldout=convscope.HeldOut(size=20)), *monitors(tmp_path)]
    run = fit(callbacks, module=Plateau(), data=data, max_epochs=4)
    assert [step for step, _ in run.curve(TAG)] == [3, 11]


class FailsLater(convscope.LayerProbe):
    """Gives no more values after its first check."""

    def compute(self, layer: Any) -> Any:
        if self.history.epochs:
            raise RuntimeError("on purpose")
        return super().compute(layer)


def test_a_value_that_fails_later_keeps_its_last_one(fit: Any, tmp_path: Path) -> None:
    callbacks = [FailsLater(layers="net.conv1", pictures=False), *monitors(tmp_path)]
    run = fit(callbacks, module=Plateau(), max_epochs=3)
    assert run.trainer.global_step == 12
    assert len(run.curve(TAG)) == 1


def test_a_kept_value_is_no_reading_of_an_alert(fit: Any) -> None:
    low = {"metric": TAG, "detector": {"kind": "threshold", "direction": "down", "limit": 2.0, "warm_up": 0}}
    alert = convscope.DriftAlert([{"name": "low", "when": [low], "message": "{metric} is {value}"}], actions=[])
    run = fit([probe(every_n_epochs=2), alert], module=Plateau(), max_epochs=2)
    assert run.trainer.global_step == 8
    assert [one.epoch for one in alert.alerts] == [1]


SECOND = {
    "drift/variance_shift/net.conv1": convscope.RepresentationDrift,
    "importance/turnover/net.conv1": convscope.FilterImportance,
    "health/update_ratio/net.conv1": convscope.FilterHealth,
    "zz_convscope/overhead": convscope.FilterHealth,
}


@pytest.mark.parametrize("key", SECOND)
@pytest.mark.parametrize("schedule", ["every second epoch", "max_overhead", "no start"])
def test_a_value_that_takes_two_checks_is_there_at_the_end_of_the_first_epoch(
    key: str, schedule: str, fit: Any
) -> None:
    ours = SECOND[key](layers="net.conv1", pictures=False, **SCHEDULES[schedule][0])
    stopping = EarlyStopping(key, patience=9, strict=True)
    run = fit([convscope.FilterCorrelation(layers="net.conv1", pictures=False), ours, stopping], max_epochs=3)
    assert run.trainer.global_step == 12
    assert stopping.best_score.isfinite()


def test_a_value_that_no_check_gives_costs_two_checks_at_most(fit: Any) -> None:
    ours = probe(every_n_epochs=3, on_start=False)
    run = fit([ours, EarlyStopping("probe/typo", strict=False, patience=9)], max_epochs=5)
    assert [step for step, _ in run.curve(TAG)] == [0, 3, 11]
