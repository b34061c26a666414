"""Detectors against other people's: river, NumPy and SciPy, and the run lengths of the textbooks."""

from __future__ import annotations

import doctest
import importlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from river import drift
from scipy import stats

from convscope.alerts.detectors import (
    CUSUM,
    DETECTORS,
    EWMA,
    Detector,
    Finite,
    Gate,
    NoProgress,
    PageHinkley,
    RelativeDrop,
    RobustZ,
    Threshold,
    benjamini_hochberg,
    quorum,
)

MAKERS: dict[str, Callable[..., Detector]] = {
    "threshold": lambda **a: Threshold(limit=1.0, **a),
    "relative_drop": lambda **a: RelativeDrop(limit=0.2, least=0.1, **a),
    "robust_z": lambda **a: RobustZ(limit=3.0, window=20, **a),
    "ewma": lambda **a: EWMA(**a),
    "cusum": lambda **a: CUSUM(limit=4.0, **a),
    "page_hinkley": lambda **a: PageHinkley(limit=2.0, **a),
    "no_progress": lambda **a: NoProgress(**a),
    "finite": lambda **a: Finite(**a),
}


@pytest.mark.parametrize("name", ["base", "limits", "charts", "control"])
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"convscope.alerts.detectors.{name}")).failed == 0


def test_every_detector_has_a_name_and_a_test() -> None:
    assert MAKERS.keys() == DETECTORS.keys()


def alarms(detector: Detector, values: np.ndarray) -> list[int]:
    return [place for place, value in enumerate(values) if detector.update(float(value)).fired]


# River.


@pytest.mark.parametrize("direction", ["up", "down", "both"])
@pytest.mark.parametrize("alpha", [1.0, 0.99])
def test_page_hinkley_is_that_of_river(direction: str, alpha: float) -> None:
    generator = np.random.default_rng(3)
    values = np.concatenate([generator.normal(m, 1.0, 60) for m in (0.0, 2.0, -1.0, -1.0, 3.0)])
    theirs = drift.PageHinkley(min_instances=10, delta=0.1, threshold=8.0, alpha=alpha, mode=direction)
    expected = []
    for place, value in enumerate(values):
        theirs.update(value)
        if theirs.drift_detected:
            expected.append(place)
    ours = PageHinkley(limit=8.0, delta=0.1, forgetting=alpha, warm_up=9, direction=direction)  # type: ignore[arg-type]
    # River reports every crossing; our gate needs a quiet value between two alarms, which these have.
    assert alarms(ours, values) == expected
    assert len(expected) >= 2


@pytest.mark.parametrize("make", [CUSUM, EWMA])
def test_a_chart_finds_a_shift_before_adwin_does(make: Callable[..., Detector]) -> None:
    ours, theirs = [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        values = np.concatenate([generator.normal(0, 1, 200), generator.normal(1.5, 1, 100)])
        adwin = drift.ADWIN(clock=1)
        found = next((i for i, v in enumerate(values) if adwin.update(v) is None and adwin.drift_detected), 300)
        theirs.append(found)
        ours.append(next((i for i in alarms(make(mean=0.0, std=1.0), values) if i >= 200), 300))
    assert np.median(ours) <= np.median(theirs) < 300


# Textbook run lengths: Montgomery, tables 9.3 (CUSUM, k = 1/2) and 9.11 (EWMA).


def run_length(make: Callable[[], Detector], shift: float, runs: int, seed: int = 0) -> float:
    generator = np.random.default_rng(seed)
    lengths = []
    for _ in range(runs):
        detector, length = make(), 0
        while True:
            length += 1
            if detector.observe(generator.normal(shift)).exceeded:
                break
        lengths.append(length)
    return float(np.mean(lengths))


@pytest.mark.parametrize(
    ("limit", "shift", "expected"),
    [(4, 0.0, 168), (4, 0.5, 26.6), (4, 1.0, 8.38), (4, 2.0, 3.34), (5, 0.5, 38.0), (5, 1.0, 10.4), (5, 3.0, 2.57)],
)
def test_cusum_run_lengths(limit: float, shift: float, expected: float) -> None:
    found = run_length(lambda: CUSUM(mean=0.0, std=1.0, limit=limit, slack=0.5), shift, 300 if shift == 0 else 1500)
    assert found == pytest.approx(expected, rel=0.15 if shift == 0 else 0.06)


@pytest.mark.parametrize(
    ("smoothing", "limit", "shift", "expected"),
    # The table's limits are asymptotic, ours those of each value, which are narrower at first; a weight of 0.4 leaves
    # little of that, and at smaller weights ours may only be the faster.
    [(0.4, 3.054, 0.0, 500), (0.4, 3.054, 0.5, 71.2), (0.4, 3.054, 1.0, 14.3), (0.4, 3.054, 2.0, 3.5)],
)
def test_ewma_run_lengths(smoothing: float, limit: float, shift: float, expected: float) -> None:
    runs = 250 if shift == 0 else 1500
    found = run_length(lambda: EWMA(mean=0.0, std=1.0, limit=limit, smoothing=smoothing), shift, runs)
    assert found == pytest.approx(expected, rel=0.15)


def test_ewma_with_weight_one_is_a_shewhart_chart() -> None:
    values = np.random.default_rng(0).normal(size=200)
    detector = EWMA(mean=0.0, std=1.0, limit=2.0, smoothing=1.0)
    assert [detector.observe(v).exceeded for v in values] == list(np.abs(values) > 2.0)


# NumPy and SciPy.


def test_robust_z_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).normal(5, 2, 40)
    detector = RobustZ(warm_up=5)
    for place, value in enumerate(values):
        evidence = detector.observe(value)
        assert evidence.ready == (place >= 5)
        if evidence.ready:
            past = values[:place]
            scale = stats.median_abs_deviation(past, scale="normal")
            assert evidence.score == pytest.approx((value - np.median(past)) / scale)


@pytest.mark.parametrize("count", [5, 8, 15, 60])
@pytest.mark.parametrize("direction", ["up", "both"])
def test_robust_z_p_values_have_about_their_size(count: int, direction: str) -> None:
    generator = np.random.default_rng(count)
    small = 0
    for _ in range(3000):
        detector = RobustZ(direction=direction, warm_up=count)  # type: ignore[arg-type]
        for value in generator.normal(size=count):
            detector.observe(value)
        p_value = detector.observe(generator.normal()).p_value
        assert p_value is not None
        small += p_value <= 0.05
    assert 0.03 <= small / 3000 <= 0.07


@pytest.mark.parametrize("make", [lambda: EWMA(direction="both"), lambda: EWMA(mean=0.0, std=1.0)])
def test_ewma_p_values_have_about_their_size(make: Callable[[], EWMA]) -> None:
    generator, small = np.random.default_rng(0), []
    for _ in range(2000):
        detector = make()
        for value in generator.normal(size=14):
            evidence = detector.observe(value)
        assert evidence.p_value is not None
        small.append(evidence.p_value <= 0.05)
    assert 0.03 <= np.mean(small) <= 0.07


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("given", [{"mean": 0.0, "std": 1.0}, {}], ids=["known", "estimated"])
def test_one_sided_ewma_p_values_look_to_their_side(given: dict[str, float], sign: float) -> None:
    generator = np.random.default_rng(0)
    values = [*generator.normal(size=10), *(sign * 0.5,) * 4]
    found = {direction: EWMA(direction=direction, **given) for direction in ("up", "down", "both")}
    p = {}
    for value in values:
        p = {direction: detector.observe(value).p_value for direction, detector in found.items()}
    toward, away = ("up", "down") if sign > 0 else ("down", "up")
    assert p[toward] is not None
    assert p[toward] < 0.5 < p[away]
    assert p[toward] + p[away] == pytest.approx(1)
    assert p["both"] == pytest.approx(2 * p[toward])


@pytest.mark.parametrize("direction", ["up", "down"])
def test_one_sided_ewma_p_values_have_about_their_size(direction: str) -> None:
    generator, small = np.random.default_rng(0), []
    for _ in range(1000):
        detector = EWMA(direction=direction, mean=0.0, std=1.0)
        for value in generator.normal(size=6):
            evidence = detector.observe(value)
        assert evidence.p_value is not None
        small.append(evidence.p_value <= 0.05)
    assert 0.03 <= np.mean(small) <= 0.07


def test_benjamini_hochberg_is_that_of_scipy() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        p_values = np.concatenate([generator.uniform(size=20), generator.beta(0.1, 5, size=5)])
        expected = stats.false_discovery_control(p_values, method="bh") <= 0.1
        assert benjamini_hochberg(list(p_values), 0.1) == list(expected)


def test_benjamini_hochberg_keeps_the_false_discovery_rate_over_layers() -> None:
    generator, any_rejected = np.random.default_rng(0), 0
    for _ in range(1000):
        any_rejected += any(benjamini_hochberg(list(generator.uniform(size=24)), 0.05))
    assert any_rejected / 1000 <= 0.07  # each of 24 tests at 5 % alone would reject in 71 % of families


def test_no_hypotheses_no_rejections() -> None:
    assert benjamini_hochberg([], 0.05) == []


def test_relative_drop_against_numpy() -> None:
    values = np.random.default_rng(0).uniform(1, 2, 60)
    cases = {
        ("down", "best"): lambda past: past.max(),
        ("up", "best"): lambda past: past.min(),
        ("up", "worst"): lambda past: past.max(),
        ("both", "median"): np.median,
    }
    for (direction, reference), of in cases.items():
        detector = RelativeDrop(direction=direction, reference=reference, window=7, limit=0.3)  # type: ignore[arg-type]
        for place, value in enumerate(values):
            evidence = detector.observe(value)
            if place:
                expected = of(values[max(place - 7, 0) : place])
                assert (evidence.expected, evidence.score) == pytest.approx((expected, (value - expected) / expected))


def test_relative_drop_from_zero_is_infinite_and_bounded_by_least() -> None:
    detector = RelativeDrop(direction="up", reference="worst", limit=0.5, least=0.1)
    assert [detector.update(v).fired for v in (0.0, 0.05, 0.0, 0.3)] == [False, False, False, True]


# Warm-up, persistence, cool-down, direction.


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("threshold", "finite", "no_progress")])
@pytest.mark.parametrize(("direction", "sign"), [("up", 1), ("down", -1)])
def test_direction_and_warm_up(name: str, direction: str, sign: int) -> None:
    if name == "relative_drop":
        values = [10.0, 10.1, 9.9] * 4
    else:
        values = [0.1, -0.1, 0.0] * 4
    jump = [values[-1] + sign * 60.0] * 3
    with_us = MAKERS[name](direction=direction, warm_up=12)
    against_us = MAKERS[name](direction="down" if direction == "up" else "up", warm_up=12)
    verdicts = [with_us.update(v) for v in values]
    assert not any(v.evidence.ready for v in verdicts)
    assert any(with_us.update(v).fired for v in jump)
    assert not any(against_us.update(v).evidence.exceeded for v in [*values, *jump])


def test_both_directions_of_a_threshold() -> None:
    detector = Threshold(limit=1.0, direction="both")
    assert [detector.observe(v).exceeded for v in (1.5, -1.5, 0.5)] == [True, True, False]
    assert Threshold(limit=1.0, direction="down").observe(0.5).exceeded


# Own noise, and progress.


def swings(noise: float, prior: float, values: list[float]) -> list[int]:
    return alarms(RelativeDrop(limit=0.1, least=0.1, window=3, warm_up=2, noise=noise, prior=prior), np.array(values))


def test_a_series_that_swings_must_swing_further_than_it_has() -> None:
    values = [0.5, 0.55, 0.5, 0.58, 0.5, 0.6, 0.46]  # falls of .05, .08, then .14
    assert swings(0.0, 0.0, values) == [6]
    assert swings(2.0, 0.0, values) == []
    assert swings(1.5, 0.0, values) == [6]
    # A fall that exceeds is no noise: a second value of it still exceeds.
    detector = RelativeDrop(limit=0.1, least=0.1, window=3, warm_up=2, noise=1.5, persistence=2)
    assert alarms(detector, np.array([0.5, 0.55, 0.5, 0.58, 0.5, 0.6, 0.46, 0.44])) == [7]


def test_a_change_that_did_not_last_is_noise_from_then_on() -> None:
    make = lambda: RelativeDrop(limit=0.1, least=0.1, window=3, warm_up=2, noise=1.5, persistence=2)  # noqa: E731
    once = [0.5, 0.51, 0.5, 0.35, 0.5, 0.5, 0.5]  # a fall of .16 that was back at the next value
    assert alarms(make(), np.array([*once, 0.3, 0.3])) == []
    assert alarms(make(), np.array([*[0.5] * 7, 0.3, 0.3])) == [8]


def test_a_young_series_is_taken_to_swing_as_the_prior_says() -> None:
    assert swings(2.0, 0.0, [0.5, 0.6, 0.45]) == [2]
    assert swings(2.0, 0.1, [0.5, 0.6, 0.45]) == []
    assert swings(2.0, 0.1, [0.5, 0.6, 0.6, 0.6, 0.6, 0.45]) == [5]  # by then it has shown that it does not


def test_own_noise_means_the_same_in_any_unit() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, 60).cumsum()
    make = lambda: RelativeDrop(limit=0.0, least=0.0, noise=1.5, warm_up=3, window=3, direction="up")  # noqa: E731
    assert alarms(make(), values) == alarms(make(), 1000 * values)


def no_progress(values: list[float], **arguments: float) -> list[int]:
    return alarms(NoProgress(limit=0.05, warm_up=3, **arguments), np.array(values))  # type: ignore[arg-type]


def test_no_progress_is_neither_better_than_the_first_nor_better_among_themselves() -> None:
    assert no_progress([2.3, 2.31, 2.29, 2.3]) == [3]
    assert no_progress([9.0, 2.31, 2.30, 2.31]) == [3]  # fell apart, and lies still
    assert no_progress([9.0, 2.5, 2.4, 2.3]) == []
    assert no_progress([2.3, 2.9, 2.6, 2.4]) == [3]
    assert no_progress([2.3, 2.2, 2.1, 2.0]) == []
    assert no_progress([9.0, 2.9, 2.5, 2.2]) == []
    assert no_progress([2.3, 2.3, 2.3, 2.0]) == []
    assert no_progress([2.3, 2.2, 2.1, *[2.1] * 20]) == []
    mirrored = NoProgress(limit=0.05, warm_up=3, direction="up")
    assert alarms(mirrored, np.array([0.1, 0.09, 0.1, 0.1])) == [3]


def test_no_progress_is_judged_at_the_beginning_only() -> None:
    detector = NoProgress(limit=0.05, warm_up=3, until=5)
    exceeded = [detector.observe(value).exceeded for value in [2.3] * 8]
    assert exceeded == [False] * 3 + [True] * 2 + [False] * 3


@pytest.mark.parametrize(
    "arguments", [{"limit": -1.0}, {"until": 2}, {"direction": "both"}, {"warm_up": 0}], ids=lambda a: next(iter(a))
)
def test_no_progress_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        NoProgress(**arguments)


def test_gate_against_windows_counted_by_numpy() -> None:
    answers = np.random.default_rng(0).uniform(size=200) < 0.5
    gate = Gate(persistence=3, out_of=5)
    for place, answer in enumerate(answers):
        active, _ = gate.update(bool(answer))
        assert active == (answers[max(place - 4, 0) : place + 1].sum() >= 3)


def test_an_alarm_comes_once_and_keeps_its_cool_down() -> None:
    detector = Threshold(limit=0.5, cool_down=3)
    values = [0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 1]
    # 1: fires; goes on: silent however long; 8: cooled down and cleared, fires; 10: too soon; 13: fires.
    assert alarms(detector, np.array(values)) == [1, 8, 13]


def test_a_rise_in_the_silence_fires_when_it_ends() -> None:
    gate = Gate(cool_down=3)
    assert [gate.update(a)[1] for a in (True, False, True, True, True)] == [True, False, False, False, True]


def test_values_that_are_not_finite_change_nothing_but_finite_sees_them() -> None:
    for name, make in MAKERS.items():
        detector = make(warm_up=3)
        before = detector.state_dict()
        evidence = detector.observe(math.nan)
        if name == "finite":
            assert evidence.exceeded
        else:
            assert not evidence.ready
            assert detector.state_dict() == before


@pytest.mark.parametrize("name", list(MAKERS))
def test_state_survives_json_at_every_point(name: str) -> None:
    values = np.random.default_rng(0).normal(0, 1, 60)
    values[30:] += 3
    make = lambda: MAKERS[name](persistence=2, out_of=3, cool_down=4)  # noqa: E731
    whole = make()
    expected = [whole.update(v) for v in values]
    for cut in (1, 7, 29, 33, 50):
        first, second = make(), make()
        found = [first.update(v) for v in values[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        found += [second.update(v) for v in values[cut:]]
        assert [(v.active, v.fired) for v in found] == [(v.active, v.fired) for v in expected]


def test_state_is_a_copy() -> None:
    detector = RelativeDrop()
    detector.update(1.0)
    state = detector.state_dict()
    detector.update(0.1)
    assert state["_past"] == [1.0]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Threshold(limit=math.nan), "limit=nan"),
        (lambda: Threshold(limit=-1.0, direction="both"), "limit=-1.0"),
        (lambda: Threshold(limit=1.0, direction="sideways"), "direction='sideways'"),
        (lambda: Threshold(limit=1.0, persistence=0), "persistence=0"),
        (lambda: Threshold(limit=1.0, persistence=3, out_of=2), "out_of=2"),
        (lambda: Threshold(limit=1.0, cool_down=-1), "cool_down=-1"),
        (lambda: Threshold(limit=1.0, warm_up=1.5), "warm_up=1.5"),
        (lambda: RelativeDrop(limit=-0.1), "limit=-0.1"),
        (lambda: RelativeDrop(least=-0.1), "least=-0.1"),
        (lambda: RelativeDrop(window=0), "window=0"),
        (lambda: RelativeDrop(warm_up=0), "warm_up=0"),
        (lambda: RelativeDrop(reference="mean"), "reference='mean'"),
        (lambda: RelativeDrop(direction="both"), "reference='median'"),
        (lambda: RobustZ(limit=0.0), "limit=0.0"),
        (lambda: RobustZ(warm_up=2), "warm_up=2"),
        (lambda: RobustZ(window=3), "window=3"),
        (lambda: RobustZ(least_scale=0.0), "least_scale=0.0"),
        (lambda: EWMA(smoothing=0.0), "smoothing=0.0"),
        (lambda: EWMA(smoothing=1.1), "smoothing=1.1"),
        (lambda: EWMA(limit=-1.0), "limit=-1.0"),
        (lambda: EWMA(mean=0.0), "give both"),
        (lambda: EWMA(mean=0.0, std=0.0), "std=0.0"),
        (lambda: CUSUM(slack=-1.0), "slack=-1.0"),
        (lambda: CUSUM(limit=0.0), "limit=0.0"),
        (lambda: CUSUM(warm_up=1), "warm_up=1"),
        (lambda: PageHinkley(limit=0.0), "limit=0.0"),
        (lambda: PageHinkley(delta=-1.0), "delta=-1.0"),
        (lambda: PageHinkley(forgetting=2.0), "forgetting=2.0"),
        (lambda: benjamini_hochberg([0.5], alpha=1.0), "alpha=1.0"),
        (lambda: benjamini_hochberg([1.5]), "1.5"),
        (lambda: quorum(3, 0), "quorum=0"),
        (lambda: quorum(3, 1.5), "quorum=1.5"),
    ],
)
def test_errors_name_the_argument(make: Callable[[], object], names: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert names in str(error.value)
    assert "give" in str(error.value)
