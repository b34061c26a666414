"""A resumed run continues: history, rank stability, schedule and the held-out set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import convscope
from tests.callbacks.conftest import Classifier
from tests.networks import images


def checkpointed(fit: Any, folder: Path, epochs: int, **arguments: Any) -> Any:
    callbacks = [*convscope.suite("standard", **arguments.pop("suite", {})), ModelCheckpoint(folder, save_last=True)]
    return fit(callbacks, max_epochs=epochs, **arguments)


def test_a_resumed_run_is_the_run_that_was_never_stopped(fit: Any, tmp_path: Path) -> None:
    start = Classifier().state_dict()

    def module() -> Classifier:
        fresh = Classifier()
        fresh.load_state_dict(start)
        fresh.net.layer2[1].p = 0.0  # dropout draws from a stream that no checkpoint of Lightning's holds
        return fresh

    whole = checkpointed(fit, tmp_path / "whole", 4, module=module())
    checkpointed(fit, tmp_path / "halves", 2, module=module())
    resumed = checkpointed(fit, tmp_path / "halves", 4, module=module(), ckpt_path=tmp_path / "halves/last.ckpt")
    for tag in ("importance/rank_stability/net.conv1", "importance/gini/net.conv1", "probe/accuracy/output"):
        assert resumed.curve(tag) == whole.curve(tag)[-2:]
    for ours, theirs in zip(resumed.trainer.callbacks[:3], whole.trainer.callbacks[:3], strict=True):
        assert ours.history.state_dict() == theirs.history.state_dict()
        assert ours.history.epochs == [0, 1, 2, 3, 4]


def test_a_checkpoint_of_ours_is_plain_data_and_nothing_hangs_on_the_module(fit: Any, tmp_path: Path) -> None:
    run = checkpointed(fit, tmp_path, 2)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == Classifier().state_dict().keys()
    again = fit([], module=Classifier(), max_epochs=3, ckpt_path=tmp_path / "last.ckpt")  # without our callbacks
    assert again.trainer.global_step == 12
    assert run.trainer.global_step == 8


def test_an_old_checkpoint_without_our_state_loads(fit: Any, tmp_path: Path) -> None:
    fit([ModelCheckpoint(tmp_path, save_last=True)], max_epochs=2)
    resumed = fit(convscope.suite("standard"), module=Classifier(), max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    assert [step for step, _ in resumed.curve("probe/accuracy/output")] == [11, 15]


def edited(folder: Path, edit: Any) -> Path:
    """A checkpoint in which the state of each of our callbacks has been changed."""
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    for name, state in saved["callbacks"].items():
        if "fingerprint" in state:
            edit(name, state)
    torch.save(saved, folder / "edited.ckpt")
    return folder / "edited.ckpt"


def test_state_of_the_version_before_loads(fit: Any, tmp_path: Path, caplog: Any) -> None:
    checkpointed(fit, tmp_path, 2)

    def as_before(_: str, state: dict[str, Any]) -> None:
        assert state.pop("version") == 1
        del state["logged"], state["schedule"]["measured"], state["schedule"]["begun"]

    path = edited(tmp_path, as_before)
    resumed = checkpointed(fit, tmp_path, 4, module=Classifier(), ckpt_path=path)
    assert resumed.trainer.callbacks[0].history.epochs == [0, 1, 2, 3, 4]
    assert "starts over" not in caplog.text


def test_state_of_a_newer_version_is_not_read(fit: Any, tmp_path: Path, caplog: Any) -> None:
    checkpointed(fit, tmp_path, 2)
    path = edited(tmp_path, lambda _, state: state.update(version=99))
    resumed = checkpointed(fit, tmp_path, 4, module=Classifier(), ckpt_path=path)
    assert resumed.trainer.global_step == 16
    assert resumed.trainer.callbacks[0].history.epochs == [3, 4]
    assert (
        "probe: its state in the checkpoint cannot be restored, so it starts over (ValueError: state of" in caplog.text
    )


def test_another_heldout_set_after_the_resume_is_said(fit: Any, tmp_path: Path) -> None:
    checkpointed(fit, tmp_path, 1)
    other = {"heldout": convscope.HeldOut(images(30, seed=9))}
    with pytest.warns(UserWarning, match="held-out set of probe, .* is not the one that this run began with"):
        checkpointed(fit, tmp_path, 2, suite=other, module=Classifier(), ckpt_path=tmp_path / "last.ckpt")


def test_steps_continue_without_a_gap(fit: Any, tmp_path: Path) -> None:
    probe = {"every_n_epochs": 0, "every_n_train_steps": 3}
    checkpointed(fit, tmp_path, 1, suite=probe)
    resumed = checkpointed(fit, tmp_path, 2, suite=probe, module=Classifier(), ckpt_path=tmp_path / "last.ckpt")
    assert [step for step, _ in resumed.curve("probe/accuracy/output")] == [5]  # after the sixth step; no second start
