"""Rules are data: what is read, what is refused, and that a rule file says the same as Python."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

import convscope
from convscope.alerts.watch import Watch

THRESHOLD = {"kind": "threshold", "limit": 0.5}


def rule(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "when": [{"metric": "x", "detector": THRESHOLD}], **changes}


def condition(**changes: Any) -> dict[str, Any]:
    return rule(when=[{"metric": "x", "detector": THRESHOLD, **changes}])


def test_yaml_loads_the_same_rules_as_python(tmp_path: Path) -> None:
    source = [
        rule(severity="critical", cool_down=2, message="{layer} {value:.1f}", likely="a", look_at="b", optional=True),
        rule(name="b", when=[{"metric": ["x", "y/*"], "detector": THRESHOLD, "depth": [0.5, 1], "quorum": 0.5}]),
        rule(name="c", unless=[{"metric": "z", "detector": THRESHOLD}]),
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(source), encoding="utf-8")
    assert convscope.rules.load(path) == convscope.rules.load(source) == convscope.rules.load(str(path))


def test_the_rules_shipped_load_and_are_what_default_gives() -> None:
    path = Path(importlib.import_module("convscope.alerts").__file__ or "").with_name("default_rules.yaml")
    assert convscope.rules.load(path) == convscope.rules.default()


def test_default_rules_cover_what_they_promise() -> None:
    names = {rule.name for rule in convscope.rules.default()}
    assert names >= {
        "probe_collapse", "stalled_layer", "rank_collapse", "redundancy_surge", "dead_filter_surge",
        "importance_concentration", "representation_jump", "forgetting", "vanishing_signal", "exploding_signal",
        "not_finite", "heldout_changed", "memorising",
    }  # fmt: skip


def test_every_default_rule_says_what_is_likely_and_where_to_look() -> None:
    for found in convscope.rules.default():
        assert found.likely, found.name
        assert found.look_at, found.name


def test_default_gives_a_list_of_its_own() -> None:
    convscope.rules.default().clear()
    assert convscope.rules.default()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ([rule(name="")], "name: got ''"),
        ([rule(name="a b")], "name: got 'a b'"),
        ([rule(), rule()], "'a' is given to more than one rule"),
        ([rule(severity="bad")], "rule 'a', field severity: got 'bad'"),
        ([rule(when=[])], "field when: got []"),
        ([rule(when="x")], "field when: got 'x'"),
        ([rule(when=["x"])], "when[0].metric: got 'x'"),
        ([rule(unless="x")], "field unless: got 'x'"),
        ([rule(unless=[{"metric": "x"}])], "field unless[0].detector: is missing"),
        ([rule(message="{nothing}")], "field message: there is no placeholder {nothing}"),
        ([rule(message="{layer.__class__}")], "field message: there is no placeholder"),
        ([rule(message="{value")], "field message: got '{value'"),
        ([rule(message="{layer:.2f}")], "field message: got '{layer:.2f}'"),
        ([rule(message=3)], "field message: got 3"),
        ([rule(optional="yes")], "field optional: got 'yes'"),
        ([rule(calibrated=1)], "field calibrated: got 1"),
        ([rule(calibrated="later")], "field calibrated: got 'later'"),
        ([rule(alone="loud")], "field alone: got 'loud'"),
        ([rule(cool_down=-1)], "field cool_down=-1"),
        ([rule(rank=101)], "field rank: got 101; give a whole number from 0 (a cause) to 100 (a consequence)"),
        ([rule(rank=True)], "field rank: got True"),
        ([rule(rank="first")], "field rank: got 'first'"),
        ([rule(follows="dead_filter_surge")], "field follows: got 'dead_filter_surge'; give a list of names of rules"),
        ([rule(held_by=[""])], "field held_by: got ['']"),
        ([rule(colour="red")], "field colour: there is no such field"),
        ([{"name": "a"}], "field when: is missing"),
        (["a"], "rule 1: got 'a'"),
        ([condition(metric="")], "when[0].metric: got"),
        ([condition(metric=[])], "when[0].metric: got"),
        ([condition(transform="sqrt")], "when[0].transform: got 'sqrt'"),
        ([condition(depth=[1, 0])], "when[0].depth: got [1, 0]"),
        ([condition(depth=0.5)], "when[0].depth: got 0.5"),
        ([condition(quorum=0)], "when[0].quorum=0"),
        ([condition(alpha=2.0)], "when[0].alpha: got 2.0"),
        ([condition(alpha=0.05)], "when[0].alpha: 'threshold' has no p-values"),
        ([condition(extra=1)], "when[0].extra: there is no such field"),
        ([condition(detector="threshold")], "when[0].detector: got 'threshold'"),
        ([condition(detector={"limit": 1})], "when[0].detector.kind: got None"),
        ([condition(detector={"kind": "nope"})], "when[0].detector.kind: got 'nope'"),
        ([condition(detector={"kind": "threshold"})], "when[0].detector.limit: is missing"),
        ([condition(detector={**THRESHOLD, "limit": "1e-3"})], "when[0].detector.limit='1e-3'"),
        ([condition(detector={**THRESHOLD, "speed": 1})], "when[0].detector.speed: there is no such field"),
        ([condition(detector={**THRESHOLD, "cool_down": 1})], "when[0].detector.cool_down: there is no such field"),
        ([condition(detector={**THRESHOLD, "persistence": 0})], "when[0].detector.persistence=0"),
    ],
)
def test_errors_name_the_rule_and_the_field(source: Any, names: str) -> None:
    with pytest.raises(ValueError) as error:
        convscope.rules.load(source)
    assert names in str(error.value)


def test_errors_of_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump([rule(severity="bad")]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml: rule 1: rule 'a', field severity"):
        convscope.rules.load(path)


@pytest.mark.parametrize("text", ["a: [", "name: a", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_list_of_rules_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        convscope.rules.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convscope.rules.load(tmp_path / "nowhere.yaml")


def test_default_rules_are_silent_on_a_run_that_does_nothing() -> None:
    tags = [
        f"{family}/l{i}" for family in ("probe/accuracy", "health/activation_rms", "drift/cka_first") for i in (1, 2)
    ]
    watch = Watch(convscope.rules.default())
    still = {**dict.fromkeys(tags, 0.5), "resampling/above_chance": 1.0}
    assert not [alert for _ in range(20) for alert in watch.update(still)]
