"""Incidents through real fits: told once, kept in checkpoints, dated as everything else is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

import convscope
from convscope.callbacks.alerts import DriftAlert
from convscope.loggers import read_jsonl
from tests.callbacks.test_alerts import Scripted, fit_script, rules


class Two(Scripted):
    """Logs ``other`` as well, which is high from epoch 2 on."""

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self.log("other", float(self.current_epoch >= 2))


def second(**changes: Any) -> dict[str, Any]:
    when = [{"metric": "other", "detector": {"kind": "threshold", "limit": 0.5}}]
    return {"name": "second", "when": when, "follows": ["high"], "message": "the other is high", **changes}


@pytest.mark.parametrize(("severity", "lines"), [("warning", 1), ("critical", 2)])
def test_an_incident_is_told_once_and_once_more_where_it_becomes_critical(
    fit: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path, severity: str, lines: int
) -> None:
    told: list[Any] = []
    actions = {"warning": ["log", "jsonl", told.append], "critical": ["log", "jsonl", told.append, "checkpoint"]}
    alert = DriftAlert([*rules(), second(severity=severity)], actions)
    fit([alert], module=Two([0.0, 0.9, 0.9, 0.9]), max_epochs=4, logger=False)
    logged = [r.getMessage() for r in caplog.records if r.name == "convscope"]
    assert [line.split(":")[1] for line in logged] == [" [warning] high, epoch 1", " [critical] high, epoch 2"][:lines]
    assert [one.number for one in told] == [1] * lines
    assert (tmp_path / "alerts" / "high-epoch=2-step=11.ckpt").exists() == (lines == 2)
    assert [(a.rule, a.incident, a.epoch) for a in alert.alerts] == [("high", 1, 1), ("second", 1, 2)]
    records = read_jsonl(tmp_path / "alerts.jsonl")
    assert [(r["rule"], r.get("event")) for r in records] == [
        ("high", None), ("high", "opened"), ("second", None), *([("high", "escalated")] if lines == 2 else []),
    ]  # fmt: skip


def test_a_resumed_run_goes_on_with_an_open_incident(fit: Any, tmp_path: Path) -> None:
    script: list[float | None] = [0.0, 0.9, 0.9, 0.0, 0.0, 0.0]

    def saving() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "c", save_last=True)

    first, alert = DriftAlert(rules()), DriftAlert(rules())
    fit([first, saving()], module=Scripted(script), max_epochs=3, logger=False)
    assert [one.is_open for one in first.incidents] == [True]
    fit([alert, saving()], module=Scripted(script), max_epochs=6, logger=False, ckpt_path=tmp_path / "c" / "last.ckpt")
    (incident,) = alert.incidents
    assert incident.closed is not None
    assert (incident.opened.epoch, incident.closed.epoch, incident.closed.step) == (1, 4, 19)
    events = [r["event"] for r in read_jsonl(tmp_path / "alerts.jsonl") if "event" in r]
    assert events == ["opened", "closed"]


def test_state_of_the_version_before_loads_and_its_alerts_are_kept() -> None:
    """As 0.1 wrote it: alerts without incidents, no version, and series without what came later."""
    alert = DriftAlert(rules())
    alert._judge.update({"scripted": 0.9})
    old = json.loads(json.dumps(alert.state_dict()))
    told = {"rule": "high", "severity": "warning", "message": "m", "likely": "", "look_at": "", "epoch": 0, "step": 3,
            "check": 1, "values": {"scripted": 0.9}, "expected": {"scripted": 0.5}}  # fmt: skip
    old = {"run": old["run"], "alerts": [told], "watch": old["watch"], "looked_for_globs": True}
    del old["watch"]["rules"]["high"]["excused_for"]
    found = DriftAlert(rules())
    found.load_state_dict(old)
    assert [(a.rule, a.incident) for a in found.alerts] == [("high", None)]
    assert found.incidents == []
    assert found._judge.update({"scripted": 0.9}, epoch=1).opened == []  # the rule has fired already
    assert not found._reported


def test_epochs_are_those_of_the_table_and_the_untrained_network_is_not_judged(
    fit: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    when = [{"metric": "correlation/mean_abs/*", "detector": {"kind": "threshold", "limit": -1.0}}]
    alert = DriftAlert([{"name": "any", "when": when}])
    observer = convscope.FilterCorrelation(pictures=False, every_n_epochs=2)
    fit([observer, convscope.LayerTable(), alert], max_epochs=2)
    titles = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith(("bef", "epoch"))]
    assert titles == ["before training", "epoch 1"]
    assert [one.opened.label for one in alert.incidents] == ["epoch 1"]
    assert "[warning] any, epoch 1: " in caplog.text


def test_the_curve_is_there_without_alerts_and_only_where_tensorboard_is_an_action(fit: Any) -> None:
    run = fit_script(fit, [0.0, 0.0], DriftAlert(rules()))
    assert run.curve("alert/severity") == [(3, 0.0), (7, 0.0)]
    run = fit_script(fit, [0.9, 0.9], DriftAlert(rules(), ["log"]))
    assert "alert/severity" not in run.events.Tags()["scalars"]


def test_a_callable_reads_of_an_incident_what_it_read_of_an_alert(fit: Any) -> None:
    seen: list[Any] = []
    fit_script(fit, [0.9], DriftAlert(rules(likely="a cause", look_at="a place"), [seen.append]))
    (incident,) = seen
    (alert,) = incident.alerts
    for name in ("rule", "severity", "message", "likely", "look_at", "epoch", "step", "check", "values", "expected"):
        assert getattr(incident, name) == getattr(alert, name)
    assert alert.text == "scripted is 0.9. Likely: a cause. Look at: a place."


def test_an_incident_is_logged_at_the_level_of_its_severity(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    fit([DriftAlert([*rules(), second(severity="critical")])], module=Two([0.0, 0.9, 0.9]), max_epochs=3)
    levels = [r.levelno for r in caplog.records if r.name == "convscope"]
    assert levels == [logging.WARNING, logging.ERROR]
