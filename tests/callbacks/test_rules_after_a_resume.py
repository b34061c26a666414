"""A rule that was changed before a resume, or that fails, costs itself and no other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

import convscope
from convscope.alerts.rules import Rule
from convscope.alerts.watch import Watch
from tests.callbacks.conftest import Classifier
from tests.networks import Plain

DETECTORS: dict[str, dict[str, Any]] = {
    "threshold": {"kind": "threshold", "limit": 0.5},
    "robust_z": {"kind": "robust_z", "limit": 3.0},
    "ewma": {"kind": "ewma"},
    "cusum": {"kind": "cusum"},
    "finite": {"kind": "finite"},
    "trend": {"kind": "trend"},
}


def rule(detector: dict[str, Any], **fields: Any) -> Rule:
    return Rule(name="changed", when=[{"metric": "a", "detector": detector, **fields}], cool_down=0)


OTHER = Rule(name="other", when=[{"metric": "b", "detector": {"kind": "threshold", "limit": 1.0}}], cool_down=0)


def known(name: str) -> dict[str, Any] | None:
    try:
        rule(DETECTORS[name])
    except ValueError:
        return None
    return DETECTORS[name]


KINDS = [name for name in DETECTORS if known(name)]


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_another_detector_begins_afresh_and_the_others_go_on(before: str, after: str) -> None:
    old = Watch([rule(DETECTORS[before]), OTHER])
    for check in range(12):
        old.update({"a": 0.1 * (check % 3), "b": 0.0})
    faults: list[str] = []
    new = Watch([rule(DETECTORS[after]), OTHER], lambda name, error: faults.append(name))
    fresh = Watch([rule(DETECTORS[after]), OTHER])
    new.load_state_dict(old.state_dict())
    assert new.checks == 12
    for check in range(8):
        values = {"a": 5.0 if check == 7 else 0.1 * (check % 3), "b": 2.0 if check == 3 else 0.0}
        found, expected = new.update(values), fresh.update(values)
        assert [alert.rule for alert in found if alert.rule == "other"] == (["other"] if check == 3 else [])
        if before != after:
            assert [alert.rule for alert in found] == [alert.rule for alert in expected]
    assert faults == []


@pytest.mark.parametrize(
    "fields", [{"metric": "c"}, {"transform": "log"}, {"depth": (0.5, 1.0)}, {"quorum": 1}], ids=str
)
def test_other_fields_of_a_condition(fields: dict[str, Any]) -> None:
    old = Watch([rule(DETECTORS["robust_z"]), OTHER])
    for _ in range(9):
        old.update({"a": 1.0, "b": 0.0, "c": 1.0})
    new = Watch([Rule(name="changed", when=[{"metric": "a", "detector": DETECTORS["robust_z"], **fields}]), OTHER])
    new.load_state_dict(old.state_dict())
    assert [alert.rule for alert in new.update({"a": 1.0, "b": 2.0, "c": 1.0})] == ["other"]


def spoilt(state: Any, path: list[str]) -> Any:
    """A copy of nested dicts without the entry at the end of the path."""
    state = copy.deepcopy(state)
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return state


@pytest.mark.parametrize("key", ["conditions", "gate"])
def test_a_broken_state_of_one_rule_costs_that_rule(key: str) -> None:
    faults: list[str] = []
    old = Watch([rule(DETECTORS["robust_z"]), OTHER])
    old.update({"a": 1.0, "b": 0.0})
    new = Watch([rule(DETECTORS["robust_z"]), OTHER], lambda name, error: faults.append(name))
    new.load_state_dict(spoilt(old.state_dict(), ["rules", "changed", key]))
    assert [alert.rule for alert in new.update({"a": 1.0, "b": 2.0})] == ["other"]
    assert faults == ["changed"]


def test_a_rule_that_fails_is_told_and_the_others_go_on(fit: Any, caplog: Any, monkeypatch: Any) -> None:
    always: dict[str, Any] = {"kind": "threshold", "limit": -9.0}
    rules = [Rule(name=name, when=[{"metric": "val_loss", "detector": always}]) for name in ("first", "second")]
    alert = convscope.DriftAlert(rules, actions=[])
    broken = alert._judge.watch._watches["first"].rule.conditions[0]
    object.__setattr__(broken, "alpha", 0.5)  # a threshold has no p-values
    object.__setattr__(broken, "quorum", "none")
    fit([alert], module=Classifier(Plain(channels=3)), max_epochs=3)
    assert [one.rule for one in alert.alerts] == ["second"]
    assert sum("the rule first failed" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("missing", ["run", "alerts", "watch", "ledger", "unseen"])
def test_a_part_of_the_state_that_is_missing_begins_afresh(missing: str, fit: Any, tmp_path: Path) -> None:
    low = [{"name": "low", "when": [{"metric": "val_loss", "detector": {"kind": "threshold", "limit": -9.0}}]}]
    saving = ModelCheckpoint(tmp_path, save_last=True)
    fit([convscope.DriftAlert(low, actions=[]), saving], module=Classifier(Plain(channels=3)), max_epochs=1)

    class Other(convscope.DriftAlert):
        def load_state_dict(self, state_dict: Any) -> None:
            super().load_state_dict({key: value for key, value in state_dict.items() if key != missing})

        @property
        def state_key(self) -> str:
            return "DriftAlert"

    alert = Other(low, actions=[])
    run = fit([alert], module=Classifier(Plain(channels=3)), max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert run.trainer.global_step == 8
    assert alert._judge.watch.checks == (1 if missing == "watch" else 2)
