"""Probes against scikit-learn, and the promises of order, chunks and input."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from convscope.metrics import CentroidProbe, KNNProbe, LogisticProbe, RidgeProbe
from convscope.metrics.functional import (
    balanced_accuracy,
    best_layer,
    centroid_probe_scores,
    centroid_scorer,
    chance_level,
    control_accuracy,
    depth_monotonicity,
    knn_probe_scores,
    logistic_probe_scores,
    probe_accuracy,
    probe_depth,
    ridge_predictor,
    ridge_probe_scores,
    selectivity,
)
from convscope.metrics.functional.folds import left_out_with, partners
from convscope.metrics.functional.logistic import equal_folds, stratified_folds
from convscope.metrics.functional.ridge import DEFAULT_ALPHAS

PROBES = [RidgeProbe, lambda: LogisticProbe(folds=3), lambda: KNNProbe(k=5), CentroidProbe]
IDS = ["ridge", "logistic", "knn", "centroid"]


def make_data(n: int = 120, c: int = 12, k: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(k, (n,), generator=generator)
    target[:k] = torch.arange(k)
    centres = torch.randn(k, c, generator=generator)
    features = centres[target] + 1.5 * torch.randn(n, c, generator=generator)
    return features * torch.linspace(0.1, 30, c) + 5, target


def scaled(features: torch.Tensor) -> np.ndarray:
    return StandardScaler().fit_transform(features.double().numpy())


@pytest.mark.parametrize("shape", [(120, 12), (40, 70)], ids=["primal", "dual"])
def test_ridge_equals_sklearn_ridge_cv(shape: tuple[int, int]) -> None:
    features, target = make_data(*shape)
    truth = np.eye(4)[target.numpy()]
    oracle = RidgeCV(alphas=DEFAULT_ALPHAS, store_cv_results=True).fit(scaled(features), truth)
    chosen = list(DEFAULT_ALPHAS).index(oracle.alpha_)
    left_out_error = oracle.cv_results_[:, :, chosen]
    ours = ridge_predictor(features, torch.from_numpy(truth))(torch.from_numpy(truth)).numpy()
    np.testing.assert_allclose((ours - truth) ** 2, left_out_error, rtol=1e-6, atol=1e-9)
    one_penalty = ridge_probe_scores(features, target, alphas=[float(oracle.alpha_)])
    torch.testing.assert_close(ridge_probe_scores(features, target), one_penalty)


@pytest.mark.parametrize("shape", [(30, 5), (20, 40), (40, 3)], ids=["primal", "dual", "few classes"])
def test_ridge_equals_refitting_without_each_sample_and_its_partner(shape: tuple[int, int]) -> None:
    features, target = make_data(*shape, k=3)
    x, truth, ours = scaled(features), np.eye(3)[target.numpy()], ridge_probe_scores(features, target, alphas=[2.0])
    partner = partners(torch.from_numpy(truth).bool())
    for i, k in itertools.product(range(len(x)), range(3)):
        kept = np.setdiff1d(np.arange(len(x)), [i, int(partner[i, k])])
        expected = Ridge(alpha=2.0).fit(x[kept], truth[kept, k]).predict(x[i : i + 1])
        assert ours[i, k].item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("reading", [1, 1000], ids=["row by row", "multiplied"])
def test_ridge_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch, reading: int) -> None:
    features, target = make_data()
    whole = ridge_probe_scores(features, target)
    monkeypatch.setattr("convscope.metrics.functional.ridge._AT_ONCE", 1000)
    monkeypatch.setattr("convscope.metrics.functional.ridge._READING", reading)
    torch.testing.assert_close(ridge_probe_scores(features, target), whole)


def sklearn_out_of_fold(features: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    (fold, trains), x, y = equal_folds(target, 5), scaled(features), target.numpy()
    expected = np.zeros((len(y), len(np.unique(y))))
    for number in range(5):
        fitted, held_out = trains[:, number].numpy(), (fold == number).numpy()
        model = LogisticRegression(max_iter=5000, tol=1e-9).fit(x[fitted], y[fitted])
        expected[held_out] = model.predict_proba(x[held_out])
    return expected


@pytest.mark.parametrize("shape", [(400, 20), (60, 90)], ids=["primal", "dual"])
@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_driven_to_convergence_equals_sklearn_on_the_same_folds(
    classes: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, target = make_data(*shape, k=classes)
    monkeypatch.setattr("convscope.metrics.functional.logistic._OPTIONS", {"gtol": 1e-9, "ftol": 1e-14})
    ours = logistic_probe_scores(features, target, max_iter=5000).softmax(dim=1)
    np.testing.assert_allclose(ours, sklearn_out_of_fold(features, target), atol=2e-3)


def test_logistic_stops_early_without_a_loss_of_accuracy() -> None:
    features, target = make_data(1000, 60, 4)
    expected = probe_accuracy(torch.from_numpy(sklearn_out_of_fold(features, target)), target)
    assert probe_accuracy(logistic_probe_scores(features, target), target).item() == pytest.approx(
        expected.item(), abs=0.01
    )


def test_logistic_penalty_and_iterations_have_an_effect() -> None:
    features, target = make_data()
    plain = logistic_probe_scores(features, target)
    assert logistic_probe_scores(features, target, l2=100.0).abs().max() < 0.7 * plain.abs().max()
    assert (logistic_probe_scores(features, target, max_iter=1) - plain).abs().max() > 0.1


def test_logistic_leaves_out_a_class_that_the_training_folds_lack() -> None:
    features, target = make_data(60, 5, 3)
    target[target == 2] = 0
    target[7] = 2
    scores = logistic_probe_scores(features, target, folds=3)
    assert scores[7, 2] == -torch.inf
    assert torch.isfinite(scores[torch.arange(60) != 7][:, :2]).all()


def test_folds_are_stratified_and_of_one_size() -> None:
    target = torch.tensor([0] * 10 + [1] * 20 + [2] * 5)
    fold = stratified_folds(target, 5)
    assert all(torch.bincount(fold[target == c], minlength=5).unique().numel() == 1 for c in range(3))


def refitted(model: Any, features: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """Class shares of each sample from a fit without it and without one sample of each other class."""
    x, y, left_out = scaled(features), target.numpy(), left_out_with(target, int(target.max()) + 1).numpy()
    return np.stack(
        [
            model.fit(np.delete(x, left_out[i], 0), np.delete(y, left_out[i])).predict_proba(x[i : i + 1])[0]
            for i in range(len(y))
        ]
    )


def test_knn_equals_sklearn() -> None:
    features, target = make_data()
    expected = refitted(KNeighborsClassifier(n_neighbors=7), features, target)
    np.testing.assert_allclose(knn_probe_scores(features, target, k=7).numpy(), expected, atol=1e-12)


def test_knn_shares_votes_among_samples_at_one_distance() -> None:
    features, target = torch.tensor([0.0, 1, 1, 1, 1, 9, 9, 9]), torch.tensor([0, 0, 1, 1, 1, 0, 0, 1])
    scores = knn_probe_scores(features[:, None], target, k=2)
    # Without samples 0 and 2 three are at distance 1, of which two vote: one of class 0 and two of class 1.
    torch.testing.assert_close(scores[0], torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))


def test_knn_takes_all_where_fewer_are_left_than_shall_vote() -> None:
    features, target = make_data(12, 3, 3)
    counts = torch.bincount(target).double() - 1
    torch.testing.assert_close(knn_probe_scores(features, target, k=11), (counts / counts.sum()).expand(12, -1))


def test_knn_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, target = make_data()
    whole = knn_probe_scores(features, target, k=7)
    monkeypatch.setattr("convscope.metrics.functional.neighbours._CHUNK_ELEMENTS", 1000)
    torch.testing.assert_close(knn_probe_scores(features, target, k=7), whole)


def test_centroid_equals_sklearn_with_each_sample_left_out() -> None:
    features, target = make_data()
    x, y, left_out = scaled(features), target.numpy(), left_out_with(target, 4).numpy()
    scores = centroid_probe_scores(features, target).numpy()
    for i in range(len(y)):
        model = NearestCentroid().fit(np.delete(x, left_out[i], 0), np.delete(y, left_out[i]))
        np.testing.assert_allclose(scores[i], -np.square(model.centroids_ - x[i]).sum(1), rtol=1e-9)


def test_centroid_of_a_class_with_one_sample() -> None:
    scores = centroid_probe_scores(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1]))
    assert scores[2, 1] == -torch.inf
    assert scores[2].argmax() == 0


def test_accuracies_equal_sklearn() -> None:
    _, target = make_data()
    classes = torch.tensor([2, 3, 11, 40])  # gaps: columns stand for classes present
    scores, labels = torch.randn(120, 4), classes[target]
    predicted = classes[scores.argmax(1)].numpy()
    assert probe_accuracy(scores, labels).item() == pytest.approx(accuracy_score(labels, predicted))
    assert balanced_accuracy(scores, labels).item() == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert chance_level(labels).item() == pytest.approx(np.bincount(labels).max() / 120)


def test_selectivity_is_accuracy_minus_that_on_permuted_labels() -> None:
    features, target = make_data()
    scorer = centroid_scorer(features, target)
    expected = probe_accuracy(scorer(target), target) - control_accuracy(scorer, target, n_controls=3, seed=5)
    assert selectivity(scorer, target, n_controls=3, seed=5) == expected
    assert control_accuracy(scorer, target, seed=1) != control_accuracy(scorer, target, seed=2)
    assert control_accuracy(scorer, target, n_controls=30).item() == pytest.approx(0.25, abs=0.06)


def test_ridge_control_uses_the_hat_matrix_of_the_true_labels() -> None:
    features, target = make_data()
    probe = RidgeProbe(alphas=(0.1, 1.0, 10.0), n_controls=1, seed=3)
    probe.update(features, target)
    alpha = RidgeCV(alphas=(0.1, 1.0, 10.0)).fit(scaled(features.float()), np.eye(4)[target.numpy()]).alpha_
    permuted = target[torch.randperm(120, generator=torch.Generator().manual_seed(3))]
    expected = probe_accuracy(ridge_probe_scores(features, permuted, alphas=[float(alpha)]), permuted)
    assert probe.compute().control_accuracy == expected


@pytest.mark.parametrize("make", PROBES, ids=IDS)
def test_selectivity_is_what_the_control_leaves_of_the_accuracy(make) -> None:
    features, target = make_data()
    probe = make()
    probe.update(features, target)
    result = probe.compute()
    scorer = probe._scorer(features.float(), target)
    assert result.accuracy == probe_accuracy(scorer(target), target)
    assert result.control_accuracy == control_accuracy(scorer, target, probe.n_controls, probe.seed)
    assert result.selectivity == result.accuracy - result.control_accuracy
    assert 0.1 < result.control_accuracy < 0.45 < result.accuracy


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=12))
@settings(max_examples=40, deadline=None)
def test_depth_summaries(accuracies: list[float]) -> None:
    accuracy = torch.tensor(accuracies, dtype=torch.float64)
    assert best_layer(accuracy) == int(np.argmax(accuracies))
    first = next(i for i, a in enumerate(accuracies) if a >= 0.95 * max(accuracies))
    assert probe_depth(accuracy) == first <= best_layer(accuracy)
    assert probe_depth(accuracy, tolerance=0.0) == best_layer(accuracy)
    if len(set(accuracies)) > 1:
        expected = stats.spearmanr(range(len(accuracies)), accuracies).statistic
        assert depth_monotonicity(accuracy).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("make", PROBES, ids=IDS)
def test_any_split_in_any_order_gives_the_same_result(make) -> None:
    features, target = make_data()
    whole = make()
    whole.update(features, target, torch.arange(120))
    expected = whole.compute()
    for seed in range(3):
        generator = np.random.default_rng(seed)
        split = make()
        for rows in np.array_split(generator.permutation(120), generator.integers(2, 9)):
            rows = torch.from_numpy(rows)
            split.update(features[rows], target[rows], rows)
        for value, other in zip(split.compute(), expected, strict=True):
            torch.testing.assert_close(value, other, rtol=0, atol=0)


@pytest.mark.parametrize("make", PROBES, ids=IDS)
def test_a_sample_that_comes_twice_counts_once(make) -> None:
    features, target = make_data()
    once, twice = make(), make()
    once.update(features, target, torch.arange(120))
    twice.update(features, target, torch.arange(120))
    twice.update(features[:9], target[:9], torch.arange(9))
    torch.testing.assert_close(twice.compute().scores, once.compute().scores, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", PROBES, ids=IDS)
def test_half_precision_is_taken_for_what_it_says(make, dtype: torch.dtype) -> None:
    features, target = make_data()
    half, single = make(), make()
    half.update(features.to(dtype), target)
    single.update(features.to(dtype).float(), target)
    torch.testing.assert_close(half.compute().scores, single.compute().scores, rtol=0, atol=0)


@pytest.mark.parametrize("make", PROBES, ids=IDS)
def test_constant_features_change_nothing(make) -> None:
    features, target = make_data()
    plain, padded, dead = make(), make(), make()
    plain.update(features, target)
    padded.update(torch.cat([features, torch.full((120, 2), 3.7)], dim=1), target)
    dead.update(torch.full((120, 3), 3.7), target)
    torch.testing.assert_close(padded.compute().scores, plain.compute().scores, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(dead.compute().scores).all()


@given(st.integers(0, 1000), st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_rescaling_a_feature_does_not_move_ridge(seed: int, factor: float) -> None:
    features, target = make_data(60, 6, 3, seed)
    rescaled = features.double() * torch.tensor([factor, 1, 1, 1, 1, 1])
    torch.testing.assert_close(
        ridge_probe_scores(rescaled, target), ridge_probe_scores(features.double(), target), rtol=1e-6, atol=1e-8
    )


def test_a_later_change_of_the_callers_buffer_does_not_reach_the_probe() -> None:
    features, target = make_data()
    probe = RidgeProbe()
    probe.update(features, target)
    expected = ridge_probe_scores(features, target)
    features.zero_()
    torch.testing.assert_close(probe.compute().scores, expected)


def test_reset_copy_and_pickle() -> None:
    features, target = make_data()
    probe = RidgeProbe()
    probe.update(features, target)
    for other in (copy.deepcopy(probe), pickle.loads(pickle.dumps(probe))):
        assert other.compute().accuracy == probe.compute().accuracy
    probe.reset()
    probe.update(features[:, :3], target)
    assert probe.compute().scores.shape == (120, 4)


X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (X[:, :, None], Y, "features must have shape (N, C), got (6, 3, 1)"),
        (X.long(), Y, "features must be floating point, got torch.int64"),
        (X, Y.float(), "class indices as integers, got torch.float32"),
        (X, torch.eye(2)[Y], "Soft labels"),
        (X, Y[:4], "must have one length, got 6 and 4"),
        (X, Y.bool(), "class indices as integers, got torch.bool"),
        (X.where(X > 0, torch.nan), Y, "must be finite"),
        (X, Y * 0 + 3, "each of the 6 targets is class 3"),
        (X[:0], Y[:0], "A probe needs samples, got none"),
    ],
)
@pytest.mark.parametrize("make", [RidgeProbe, LogisticProbe, lambda: KNNProbe(k=2), CentroidProbe], ids=IDS)
def test_bad_data_is_refused_with_a_reason(make, features, target, message: str) -> None:
    def run() -> None:
        probe = make()
        probe.update(features, target)
        probe.compute()

    with pytest.raises(ValueError, match=re.escape(message)):
        run()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RidgeProbe(alphas=()), "alphas=(): give penalties, at least one, each a finite number, above 0"),
        (lambda: RidgeProbe(alphas=(1.0, -1.0)), "alphas=(1.0, -1.0): give penalties, at least one"),
        (lambda: RidgeProbe(n_controls=0), "n_controls=0: give a whole number, at least 1"),
        (lambda: RidgeProbe(n_controls=True), "n_controls=True: give a whole number, at least 1"),
        (lambda: LogisticProbe(folds=1), "folds=1: give a whole number, at least 2"),
        (lambda: LogisticProbe(l2=0.0), "l2=0.0: give a finite number, above 0"),
        (lambda: LogisticProbe(max_iter=0), "max_iter=0: give a whole number, at least 1"),
        (lambda: KNNProbe(k=0), "k=0: give a whole number of neighbours, at least 1"),
        (
            lambda: knn_probe_scores(X, Y, k=6),
            "k=6: give a whole number of neighbours among the 5 other samples, at least 1 and at most 5",
        ),
        (
            lambda: logistic_probe_scores(X, Y, folds=7),
            "folds=7: give a whole number of folds of 6 samples, at least 2 and at most 6",
        ),
        (lambda: probe_accuracy(torch.zeros(6, 3), Y), "must have shape (N, 2)"),
        (lambda: chance_level(Y[:0]), "got an empty target"),
        (lambda: chance_level(torch.tensor(1)), "shape (N,)"),
        (lambda: probe_depth(torch.ones(2), tolerance=1.0), "tolerance=1.0: give a share in [0, 1)"),
        (lambda: best_layer(torch.tensor([1.0, torch.nan])), "accuracy must be finite"),
        (lambda: best_layer(torch.ones(0)), "vector of shape (C,)"),
    ],
)
def test_bad_arguments_are_refused_with_a_reason(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.arange(5), "one integer for each of the 6 samples"),
        (torch.arange(6.0), "one integer for each of the 6 samples"),
        (torch.arange(6) - 1, "must not be negative, got -1"),
    ],
)
def test_bad_index_is_refused(index: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RidgeProbe().update(X, Y, index)


def test_chunks_must_agree() -> None:
    probe = RidgeProbe()
    probe.update(X, Y, torch.arange(6))
    with pytest.raises(ValueError, match="must have 3 columns as in earlier chunks, got 2"):
        probe.update(X[:, :2], Y)
    probe.update(X, Y)
    with pytest.raises(ValueError, match="Pass `index` in every update or in none"):
        probe.compute()
