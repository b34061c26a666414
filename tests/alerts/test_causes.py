"""Symptoms and causes: what is measured, how causes are ranked, and that incidents carry them."""

from __future__ import annotations

import doctest
import json
import math

import pytest

from convscope.alerts import Incident, Judge, Rule, judge_run, load_rules
from convscope.alerts import causes as module
from convscope.alerts.causes import CauseTable, Signature, default_table, table_of
from convscope.alerts.symptoms import BROKEN, SYMPTOMS, Symptoms, strongest
from tests.support.restarts import restarted

TABLE = CauseTable(
    (
        Signature("rises", "it rises", "does it?", dict.fromkeys("abcdef", 0.8)),
        Signature("falls", "it falls", "does it?", dict.fromkeys("abcdef", -0.8)),
    ),
    dict.fromkeys("abcdef", 0.5),
)


def test_the_example_runs() -> None:
    assert doctest.testmod(module).failed == 0


def test_the_likest_signature_comes_first_and_shares_add_up() -> None:
    found = TABLE.rank(dict.fromkeys("abcdef", 0.3))
    assert [cause.name for cause in found] == ["rises", "falls"]
    assert sum(cause.share for cause in found) == pytest.approx(1)
    # Six symptoms at distances .5 and 1.1, in spreads of .5: the log odds are 6 (1.1^2 - .5^2) / (2 * .25).
    assert math.log(found[0].share / found[1].share) == pytest.approx(6 * (1.1**2 - 0.5**2) / 0.5)


def test_a_cause_has_the_evidence_of_all_its_signatures() -> None:
    other = Signature("rises", "it rises", "does it?", dict.fromkeys("abcdef", -0.6))
    table = CauseTable((*TABLE.signatures, other), TABLE.spread)
    assert [cause.name for cause in TABLE.rank(dict.fromkeys("abcdef", -0.65))] == ["falls", "rises"]
    found = table.rank(dict.fromkeys("abcdef", -0.65))
    assert [cause.name for cause in found] == ["rises", "falls"]
    assert sum(cause.share for cause in found) == pytest.approx(1)


def test_what_is_not_known_counts_nothing_and_too_little_names_nothing() -> None:
    known = dict.fromkeys("abcdef", 0.3)
    assert TABLE.rank({**known, "unheard of": 1.0}) == TABLE.rank(known)
    assert TABLE.rank(dict.fromkeys("abcde", 0.3)) == []


def test_a_nan_names_its_cause_although_nothing_else_is_known() -> None:
    assert default_table().rank({BROKEN: 1.0})[0].name == "broken_numbers"


def test_symptoms_mean_the_same_at_any_size() -> None:
    small, large = Symptoms(), Symptoms()
    for value in (1.0, 0.8, 0.7, 2.0):
        one = small.update({f"health/activation_rms/l{i}": value for i in range(3)})
        other = large.update({f"health/activation_rms/l{i}": 1000 * value for i in range(3)})
    assert one == pytest.approx(other)
    assert one["largest rise of activations"] == pytest.approx(math.tanh(math.log(2.0 / 0.8) / 0.4))


def test_layers_become_one_number_each_as_the_symptom_says() -> None:
    tracker = Symptoms()
    tracker.update({f"drift/cka_previous/l{i}": 0.9 for i in range(4)})
    found = tracker.update({f"drift/cka_previous/l{i}": value for i, value in enumerate([0.8, 0.9, 0.2, 0.9])})
    assert found["likeness to the last check"] == pytest.approx(math.tanh(-0.7 / 0.15))
    assert found["likeness of the first layer"] == pytest.approx(math.tanh(-0.1 / 0.05))


def test_a_change_in_either_direction_is_as_wide() -> None:
    tracker = Symptoms()
    tracker.update({"batches/skew_0": 0.7, "batches/skew_1": 0.1})
    assert tracker.update({"batches/skew_0": -0.7, "batches/skew_1": 0.1})["look of training inputs"] > 0.99


def test_an_update_of_zero_is_a_fall_and_a_nan_is_told() -> None:
    tracker = Symptoms()
    tracker.update({"health/update_ratio/a": 0.1})
    found = tracker.update({"health/update_ratio/a": 0.0, "val_loss": math.nan})
    assert found["updates"] == pytest.approx(-1.0)
    assert found[BROKEN] == 1.0
    assert "validation loss" not in found


def test_the_larger_of_two_checks_counts() -> None:
    assert strongest({"a": 0.2, "b": -0.9}, {"a": -0.5, "c": 0.1}) == {"a": -0.5, "b": -0.9, "c": 0.1}


def test_the_table_knows_every_symptom_and_says_what_to_do() -> None:
    table = default_table()
    assert len(table.signatures) >= 12
    for one in table.signatures:
        assert one.text
        assert one.ask.endswith("?") or one.ask
        assert set(one.symptoms) <= {*SYMPTOMS, BROKEN}
        assert all(-1 <= value <= 1 for value in one.symptoms.values())
    assert all(value > 0 for value in table.spread.values())
    assert table_of({"causes": {}}).rank(dict.fromkeys(SYMPTOMS, 0.0)) == []


def run_in_which_a_layer_stands_still() -> list[dict[str, float]]:
    def row(still: bool) -> dict[str, float]:
        layers = [f"l{i}" for i in range(4)]
        stopped = {layer: float(still and layer == "l0") for layer in layers}
        return {
            **{f"health/not_learning/{layer}": stopped[layer] for layer in layers},
            **{f"health/update_ratio/{layer}": 0.0 if stopped[layer] else 0.1 for layer in layers},
            **{f"health/activation_rms/{layer}": 1.0 for layer in layers},
            **{f"health/gradient_rms/{layer}": 0.01 for layer in layers},
            **{f"health/dead_filters/{layer}": 0.0 for layer in layers},
            **{f"correlation/redundant_share/{layer}": 0.0 for layer in layers},
            **{f"drift/cka_previous/{layer}": 0.95 for layer in layers},
            "convscope/learning_rate": 0.1,
        }

    return [row(False)] * 5 + [row(True)] * 3


def still(name: str) -> list[Rule]:
    detector = {"kind": "threshold", "limit": 0.5}
    return load_rules([{"name": name, "when": [{"metric": "health/not_learning/*", "detector": detector}]}])


def test_an_incident_ranks_its_causes_and_says_what_tells_them_apart() -> None:
    (incident,) = judge_run(run_in_which_a_layer_stands_still(), still("stalled_layer"))
    assert incident.causes[0].name == "frozen_layers"
    assert "layers are frozen, or left out of the optimizer" in incident.text
    assert "To tell: which parameters have requires_grad=False" in incident.text
    assert Incident.of(json.loads(json.dumps(incident.state_dict()))).causes == incident.causes
    assert incident.as_dict()["causes"][0]["name"] == "frozen_layers"


def test_what_a_rule_of_the_users_own_found_has_no_cause_of_the_table() -> None:
    (incident,) = judge_run(run_in_which_a_layer_stands_still(), still("my_rule"))
    assert incident.causes == []
    assert "To tell" not in incident.text


def test_causes_survive_a_restart_at_any_check() -> None:
    checks = run_in_which_a_layer_stands_still()
    (expected,) = judge_run(checks, still("stalled_layer"))
    assert expected.causes
    for cut in range(1, len(checks)):
        found = restarted(lambda: still("stalled_layer"), checks, cut)
        assert [one.causes for one in found] == [expected.causes]


def test_state_without_symptoms_loads() -> None:
    judge = Judge(load_rules([{"name": "a", "when": [{"metric": "x", "detector": {"kind": "finite"}}]}]))
    state = judge.ledger.state_dict()
    del state["symptoms"], state["shown"]
    judge.ledger.load_state_dict(state)
