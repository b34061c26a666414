"""The fault benchmark's own arithmetic: who fired when, how sure the shares are, what the tables say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import EarlyStopping
from scipy import stats

pytest.importorskip("sklearn")

from benchmarks.fault_calibration import _observed, check_score, score
from benchmarks.fault_causes import CAUSE_OF, confusion, learn, symptoms_at, table_with
from benchmarks.fault_effects import acts, effect_rows, effects, with_effects
from benchmarks.fault_incidents import is_found, is_named, messages, says_nothing_is_learnt
from benchmarks.fault_injection import LEVELS
from benchmarks.fault_report import report
from benchmarks.fault_rivals import EVERYBODY, delay, early_stopping, sentry_cam, z_score
from benchmarks.fault_statistics import counted, interval, share_of
from convscope.alerts.causes import table_of
from tests.callbacks.conftest import Classifier as Scripted

LAYERS = ("net.0", "net.1", "net.2", "net.3")


def record(losses: list[float], begins: int | None = None, **changes: Any) -> dict[str, Any]:
    checks = [{"val_loss": loss, "val_acc": 0.9, "probe/chance": 0.1} for loss in losses]
    plain: dict[str, Any] = {
        "key": "k", "family": "a", "fault": None, "strength": "medium", "begins": begins, "checks": checks,
        "spike": None, "layers": [], "features": [(1.0, 1.0)] * len(losses), "program": {"task": "classes"},
    }  # fmt: skip
    return plain | changes


def stalled(begins: int, layer: str, **changes: Any) -> dict[str, Any]:
    """A run in which one layer stands still from a check on."""
    found = record([2.0 * 0.8**i for i in range(12)], begins, fault="frozen", layers=[layer], **changes)
    for number, check in enumerate(found["checks"]):
        check |= {f"health/not_learning/{one}": float(one == layer and number >= begins) for one in LAYERS}
        check |= {f"health/update_ratio/{one}": 0.1 for one in LAYERS}
    return found


def test_delay_counts_from_the_first_check_after_the_fault() -> None:
    found = record([1.0] * 10, begins=5)
    assert [delay(found, alarms) for alarms in ([2, 7], [5], [4], [])] == [2, 0, None, None]


@pytest.mark.parametrize(("hits", "count"), [(0, 40), (3, 40), (40, 40), (1, 2)])
def test_intervals_are_wilsons(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    _, low, high = share_of([True] * hits + [False] * (count - hits))
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_words_for_shares_and_medians() -> None:
    assert counted([True] * 8 + [False]) == "8 of 9 (89 %, 56 to 98)"
    assert counted([]) == interval([]) == "–"
    assert interval([3, 3, 3]) == "3 (3 to 3)"


def test_z_score_speaks_at_a_spike_and_at_nan() -> None:
    assert z_score(record([1.0, 0.9, 1.0, 0.9, 1.0, 0.95, 3.0]), 3.0) == [6]
    assert z_score(record([1.0] * 5 + [float("nan")]), 3.0) == [5]


@pytest.mark.parametrize("losses", [[1.0, 0.9, 0.95, 0.92, 0.91, 0.5], [1.0, 0.9, 0.8, 0.7], [1.0, float("nan"), 0.5]])
def test_early_stopping_is_replayed_as_it_runs(losses: list[float], fit: Any) -> None:
    class Losses(Scripted):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", losses[self.current_epoch])

    stopper = EarlyStopping("val_loss", patience=3)
    fit([stopper], module=Losses(), max_epochs=len(losses), num_sanity_val_steps=0)
    assert early_stopping(record(losses), 3) == ([stopper.stopped_epoch] if stopper.stopped_epoch else [])


def test_sentry_cam_speaks_after_the_burn_in_at_two_bad_checks_in_a_row() -> None:
    features = [(1.0, 1.0)] * 6 + [(1.2, 1.0), (1.0, 1.0), (1.0, 0.8), (1.0, 0.6)]
    assert sentry_cam(record([1.0] * 10, features=features), 0.05) == [9]
    assert sentry_cam(record([1.0] * 10, features=features), 0.3) == []
    assert sentry_cam(record([1.0] * 10, features=[None] * 10), 0.05) == []


@pytest.mark.parametrize("rival", EVERYBODY, ids=lambda rival: rival.name)
def test_a_blunter_setting_has_no_more_alarms(rival: Any) -> None:
    draw = np.random.default_rng(0)
    losses = [float(2 * 0.9**i + 0.3 * draw.random()) for i in range(20)]
    found = record([*losses, 6.0, 8.0, 9.0])
    for check in found["checks"]:
        check |= {"train_loss": check["val_loss"], "health/update_ratio/a": 0.1, "health/gradient_rms/a": 0.1}
    counts = [len(rival.alarms(found, setting)) for setting in rival.settings]
    assert counts == sorted(counts, reverse=True)


def test_messages_are_counted_and_the_first_layer_is_compared() -> None:
    found = stalled(8, "net.1")
    assert messages(found) == [8]
    assert is_found(found)
    assert is_named(found)
    assert not is_named(found | {"layers": ["net.2"]})


def test_a_fault_acts_if_its_run_ends_elsewhere_than_its_healthy_twin() -> None:
    fall = [2.0 * 0.8**i for i in range(12)]
    twin = record(fall, 6, fault="labels", key="a/twin", twin=True)
    alike, apart = (
        record([*fall[:6], *(loss * by for loss in fall[6:])], 6, fault="labels", key="a") for by in (1.05, 1.3)
    )
    broken = record([*fall[:11], float("nan")], 6, fault="labels", key="a")
    assert effects(apart, twin)["val_loss"] == pytest.approx(0.3)
    assert [acts(one, twin) for one in (alike, apart, broken)] == [False, True, True]
    assert acts({**alike, "fault": "frozen"}, twin)  # it changes layers, whatever comes of it
    assert not acts({**twin, "fault": "frozen"}, twin)  # but here it changes nothing at all
    assert with_effects([alike, twin])[0]["acts"] is False
    assert with_effects([apart])[0]["acts"] is None
    assert ["labels", "medium", "1 of 1", "+30 %", "+0 points", "–"] in effect_rows([apart, twin])


def test_a_run_that_learns_nothing_counts_only_if_that_was_said_in_time() -> None:
    nothing = record([2.3] * 12, 0, fault="no_rate")
    for check in nothing["checks"]:
        check |= {"val_acc": 0.1, "train_loss": 2.3}
    assert says_nothing_is_learnt(nothing)
    assert not says_nothing_is_learnt(nothing, check=2)
    assert not says_nothing_is_learnt(stalled(3, "net.1"))


def test_signatures_are_means_of_symptoms_and_name_the_cause() -> None:
    runs = [stalled(begins, layer, key=f"{begins}{layer}") for begins in (5, 6, 7) for layer in LAYERS[:2]]
    learnt = learn(runs)
    shown = [symptoms_at(run, run["begins"])["layers that stand still"] for run in runs]
    assert learnt["signatures"]["frozen"]["layers that stand still"] == pytest.approx(sum(shown) / 6.5, abs=0.01)
    table = table_of(table_with(learnt))
    (ranked, *_) = confusion([stalled(8, "net.3", key="new")], table, {"new": 8})["frozen_layers"]
    assert ranked == [] or ranked[0] == "frozen_layers"


def test_every_fault_has_a_cause_or_is_said_to_have_none() -> None:
    assert set(LEVELS) - set(CAUSE_OF) == {"ema_stuck"}


def test_scores_are_the_least_factor_without_an_alarm() -> None:
    found = record([2.0, 1.5, 1.2, 1.0, 0.9, 4.5, 4.5, 4.6, 0.8])
    assert 0 < score(found) < 20
    assert check_score(found)


def test_calibration_is_refused_below_the_number_it_needs() -> None:
    scores = np.linspace(0.5, 1.5, 60)
    assert _observed(scores, 0.02, 20) == "refused: needs 49"
    p = float(_observed(scores, 0.2, 20).split("%")[0])
    assert 14 < p < 24


def test_the_report_holds_every_fault_and_rival() -> None:
    healthy = [record([2.0 * 0.8**i for i in range(12)], key=f"h{i}") for i in range(3)]
    spoilt = [2.0 * 0.8**i for i in range(6)] + [9.0] * 6
    faulty = [record(spoilt, 6, key=fault, fault=fault, layers=["net.0"]) for fault in LEVELS]
    text = report(healthy + faulty, healthy)
    assert all(f"| {fault} |" in text for fault in LEVELS)
    assert all(f"| {rival.name} |" in text for rival in EVERYBODY)
    assert "upper bound ≤ 5 % | 35 of 164 (21 %, 16 to 28) | 0 of 3 (0 %, 0 to 56) | **no** |" in text
    # The loss alone tells of a fault, in one message (a surge, and that it stays above), and of no layer.
    assert "| frozen | 1, 1 | 2, 2 | 0 of 1 |" in text
