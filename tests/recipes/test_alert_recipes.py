"""The recipes with something wrong in them: the alerts that they promise come, and none before."""

from __future__ import annotations

from pathlib import Path

import pytest

from convscope.recipes import dying_relu, forgetting, label_corruption

pytest.importorskip("sklearn")


@pytest.mark.slow
def test_wrong_labels_are_found_at_once(tmp_path: Path) -> None:
    alerts = label_corruption.train(epochs=8, from_epoch=6, share=0.4, logdir=tmp_path).alerts
    assert "training_loss_surge" in {alert.rule for alert in alerts if alert.epoch == 6}
    assert min(alert.epoch for alert in alerts) == 6


@pytest.mark.slow
def test_dead_filters_are_found_at_once(tmp_path: Path) -> None:
    alerts = dying_relu.train(epochs=8, at_epoch=7, factor=6.0, logdir=tmp_path).alerts
    assert "dead_filter_surge" in {alert.rule for alert in alerts}
    assert min(alert.epoch for alert in alerts) == 7


@pytest.mark.slow
def test_forgetting_is_found(tmp_path: Path) -> None:
    alerts = forgetting.train(epochs=4, learning_rate=3e-3, logdir=tmp_path).alerts
    assert "forgetting" in {alert.rule for alert in alerts}
