"""Resuming from any checkpoint, in the middle of an epoch too: a run cut in two is the run that was never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.loggers import read_jsonl
from tests.callbacks.conftest import Classifier, loaders
from tests.compatibility.cells import few, observers, small, train
from tests.networks import Plain, images


def alike() -> tuple[DataLoader, DataLoader]:
    """Four equal training batches: after a resume in mid-epoch a plain DataLoader begins at its first batch again."""
    pictures, labels = images(8)
    return DataLoader(TensorDataset(pictures.repeat(4, 1, 1, 1), labels.repeat(4)), 8), loaders()[1]


class EpochEnds(L.Callback):
    """Steps at which a user's own end-of-epoch metric would be logged."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if not trainer.sanity_checking:
            self.steps.append(trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if not trainer.enable_validation:
            self.steps.append(trainer.global_step - 1)


def watched(folder: Path, **arguments: Any) -> list[Any]:
    by_step = convscope.FilterCorrelation(every_n_epochs=0, every_n_train_steps=3, pictures=False, on_error="raise")
    saving = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    return [*few(**arguments), by_step, EpochEnds(), saving]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"val_check_interval": 2},
        {"val_check_interval": 3, "check_val_every_n_epoch": None},
        {"limit_val_batches": 0},
    ],
    ids=str,
)
def test_curves_go_on_wherever_the_checkpoint_was_saved(arguments: dict[str, Any], tmp_path: Path) -> None:
    whole = watched(tmp_path / "whole")
    train(whole, tmp_path, make=small, **arguments)
    for step in (1, 2, 4, 6, 7):
        halves = watched(tmp_path / "halves")
        saved = tmp_path / f"whole/step={step}.ckpt"
        train(halves, tmp_path, make=small, ckpt_path=saved, **arguments)
        # Lightning 2.6 leaves out the end of an epoch that was due right after the batch at which it saved.
        skipped = set(whole[-2].steps) & {step - 1} - set(halves[-2].steps)
        for ours, theirs in zip(halves[:3], whole[:3], strict=True):
            assert ours.history.steps == [s for s in theirs.history.steps if s not in skipped]
        assert halves[3].history.steps == whole[3].history.steps == [0, 2, 5]


def test_values_after_a_resume_in_mid_epoch_are_those_of_the_unbroken_run(tmp_path: Path) -> None:
    found, histories = [], []
    for name, ckpt_path in (("whole", None), ("halves", tmp_path / "whole/step=6.ckpt")):
        saving = ModelCheckpoint(tmp_path / name, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        callbacks = observers()
        done = train([*callbacks, saving], tmp_path, make=small, data=alike, ckpt_path=ckpt_path)
        found.append({tag: value for tag, value in done.scalars.items() if not tag.startswith("zz_convscope/")})
        histories.append([callback.history.steps for callback in callbacks])
    assert len(found[0]) > 100
    assert found[1] == found[0]  # also what compares with the check before the resume
    assert histories[1] == histories[0]


def test_no_alert_is_repeated(tmp_path: Path) -> None:
    rule = {"name": "always", "when": [{"metric": "probe/chance", "detector": {"kind": "threshold", "limit": 0.1}}]}
    path = str(tmp_path / "alerts.jsonl")

    def callbacks(folder: Path) -> list[Any]:
        alert = convscope.DriftAlert([rule], actions=[{"jsonl": {"path": path}}])
        return [*watched(folder), alert]

    train(callbacks(tmp_path / "whole"), tmp_path, make=small)
    first = read_jsonl(Path(path))
    assert len([line for line in first if "event" not in line]) == 1
    for step in (2, 6, 7):
        train(callbacks(tmp_path / "halves"), tmp_path, make=small, ckpt_path=tmp_path / f"whole/step={step}.ckpt")
    assert read_jsonl(Path(path)) == first


def test_an_old_checkpoint_without_our_state_loads_into_every_callback(tmp_path: Path) -> None:
    train([ModelCheckpoint(tmp_path, save_last=True)], tmp_path, make=small)
    callbacks = [*observers(), convscope.LayerTable(), convscope.DriftAlert()]
    resumed = train(callbacks, tmp_path, make=small, ckpt_path=tmp_path / "last.ckpt", max_epochs=3)
    assert resumed.trainer.global_step == 12
    assert resumed.scalars["zz_convscope/errors"] == 0.0
    assert callbacks[0].history.steps == [11]  # no second start


def test_a_checkpoint_with_our_state_loads_without_our_callbacks_and_by_itself(tmp_path: Path) -> None:
    train([*observers(), ModelCheckpoint(tmp_path, save_last=True)], tmp_path, make=small)
    resumed = train([], tmp_path, make=small, ckpt_path=tmp_path / "last.ckpt", max_epochs=3)
    assert resumed.trainer.global_step == 12
    loaded = Classifier.load_from_checkpoint(tmp_path / "last.ckpt", net=Plain(channels=3), weights_only=True)
    assert loaded.state_dict().keys() == small().state_dict().keys()


def test_a_step_check_at_the_end_of_an_epoch_stands_for_the_epochs(tmp_path: Path) -> None:
    callbacks = few(every_n_train_steps=2)
    train(callbacks, tmp_path, make=small, max_epochs=3)
    assert callbacks[0].history.steps == [0, 1, 3, 5, 7, 9, 11]
    sparse = few(every_n_train_steps=8, every_n_epochs=2)
    train(sparse, tmp_path, make=small, max_epochs=6)
    assert sparse[0].history.steps == [0, 7, 15, 23]
