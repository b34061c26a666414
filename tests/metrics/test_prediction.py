"""Calibration, decision depth and the output's own predictions, against torchmetrics, SciPy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import entropy
from torchmetrics.classification import MulticlassCalibrationError

from convscope.metrics import OutputReadout
from convscope.metrics.functional import (
    calibrated_readout,
    calibration_error,
    decision_depth,
    information_gain,
    lost_and_found,
    prediction_entropy,
    ridge_probe_scores,
    serving_filters,
)

N, C, K = 400, 12, 5


def scores(signal: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Out-of-sample scores of a real probe, classes of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.multinomial(torch.tensor([0.4, 0.25, 0.15, 0.1, 0.1]), N, True, generator=generator)
    features = torch.randn(N, C, generator=generator) + signal * 2 * torch.eye(K, C)[target]
    return ridge_probe_scores(features, target), target


def test_with_two_equal_halves_the_slope_is_the_one_scipy_finds_on_the_other_half() -> None:
    s, y = scores()
    s, y = s[y.argsort(stable=True)], y.sort().values
    s, y = s.repeat_interleave(2, 0), y.repeat_interleave(2)  # folds deal samples out in turn: both halves are alike
    found = calibrated_readout(s, y, folds=2)
    half, half_y = s[::2].numpy(), y[::2].numpy()
    share = np.bincount(half_y) / len(half_y)
    n = len(y)

    def loss(beta: float) -> float:
        z = np.log(share) + beta * (half - share)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        truth = np.full(half.shape, 1 / (n + 2) / (K - 1))
        truth[np.arange(len(half_y)), half_y] = 1 - 1 / (n + 2)
        return float(-(truth * log_p).sum())

    beta = minimize_scalar(loss, bounds=(0, 100), method="bounded", options={"xatol": 1e-9}).x
    z = np.log(share) + beta * (half - share)
    expected = z - np.log(np.exp(z).sum(1, keepdims=True))
    np.testing.assert_allclose(found[::2].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("signal", [0.5, 1.0, 2.0])
def test_the_read_out_is_calibrated_where_raw_scores_are_not(signal: float) -> None:
    errors, perfect, raw = [], [], []
    for seed in range(5):
        s, y = scores(signal, seed)
        readout = calibrated_readout(s, y)
        drawn = torch.multinomial(readout.exp(), 1, generator=torch.Generator().manual_seed(seed))[:, 0]
        errors.append(float(calibration_error(readout, y)))
        perfect.append(float(calibration_error(readout, drawn)))  # labels that are what the read-out says they are
        raw.append(float(calibration_error(s.log_softmax(1), y)))
    assert np.mean(errors) < np.mean(perfect) + 0.02
    assert np.mean(errors) < 0.5 * np.mean(raw)


def test_no_sample_calibrates_itself() -> None:
    s, y = scores()
    changed = s.clone()
    changed[7] = torch.tensor([9.0, -9.0, 0.0, 0.0, 0.0])
    before, after = calibrated_readout(s, y, folds=5), calibrated_readout(changed, y, folds=5)
    order = y.argsort(stable=True)
    fold = torch.empty_like(order)
    fold[order] = torch.arange(N) % 5
    same_fold = (fold == fold[7]) & (torch.arange(N) != 7)
    torch.testing.assert_close(before[same_fold], after[same_fold])
    assert not torch.allclose(before[~same_fold], after[~same_fold])


def test_scores_that_say_nothing_give_the_shares_of_the_classes() -> None:
    y = torch.arange(200) % 4 % 3
    s = -torch.nn.functional.one_hot(y, 3).double() + 0.1 * torch.randn(
        200, 3, generator=torch.Generator().manual_seed(0)
    )
    probabilities = calibrated_readout(s, y).exp()
    torch.testing.assert_close(probabilities, torch.tensor([[0.5, 0.25, 0.25]]).double().expand(200, 3))


def test_perfect_scores_do_not_make_certainty() -> None:
    y = torch.arange(100) % 2
    probabilities = calibrated_readout(torch.eye(2)[y], y).exp().gather(1, y[:, None])
    assert (probabilities > 0.95).all()
    assert (probabilities < 1 - 1e-4).all()


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_torchmetrics(bins: int) -> None:
    log_p = (3 * torch.randn(500, K, generator=torch.Generator().manual_seed(1))).log_softmax(1)
    y = torch.randint(0, K, (500,), generator=torch.Generator().manual_seed(2))
    oracle = MulticlassCalibrationError(K, n_bins=bins, norm="l1")
    torch.testing.assert_close(calibration_error(log_p, y, bins), oracle(log_p.exp(), y), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [3, 5, 6, 9])
def test_decision_depth_and_lost_and_found_are_those_of_a_loop(layers: int) -> None:
    said = torch.randint(0, 3, (layers, 200), generator=torch.Generator().manual_seed(3))
    truth = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(4))
    expected, lost, late, half = [], 0, 0, (layers - 1) // 2  # half of the layers before the output
    for i in range(200):
        depth = layers - 1
        while depth > 0 and said[depth - 1, i] == said[-1, i]:
            depth -= 1
        expected.append(depth)
        early = int((said[:half, i] == truth[i]).sum()) >= half / 2
        lost += early and said[-1, i] != truth[i]
        late += not early and said[-1, i] == truth[i]
    assert decision_depth(said).tolist() == expected
    found = lost_and_found(said == truth)
    assert [float(f) for f in found] == pytest.approx([float(lost) / 200, float(late) / 200])


def test_the_read_out_is_calibrated_on_five_parts() -> None:
    s, y = scores(1.0, 0)
    torch.testing.assert_close(calibrated_readout(s, y), calibrated_readout(s, y, folds=5), atol=0, rtol=0)


def test_entropy_and_gain() -> None:
    p = torch.rand(3, 50, K, generator=torch.Generator().manual_seed(5))
    p = p / p.sum(2, keepdim=True)
    np.testing.assert_allclose(prediction_entropy(p.log()).numpy(), entropy(p.numpy(), axis=2), rtol=1e-5)
    truth = p[:, :, 0].log()
    prior = torch.full((50,), 0.2).log()
    gains = information_gain(truth, prior)
    assert float(gains.sum()) == pytest.approx(float((truth[-1] - prior).mean()), abs=1e-5)
    assert float(gains[1]) == pytest.approx(float((truth[1] - truth[0]).mean()), abs=1e-5)


def test_the_output_readout_orders_samples_and_keeps_every_class() -> None:
    logits, y = torch.randn(20, K), torch.arange(20) % 3
    order = torch.randperm(20)
    readout = OutputReadout()
    for part in order.split(6):
        readout.update(logits[part], y[part], part + 100)
    torch.testing.assert_close(readout.log_probabilities(), logits.double().log_softmax(1))
    assert readout.numbers().tolist() == list(range(100, 120))
    assert torch.equal(readout.compute().target, y)


@pytest.mark.parametrize("kind", ["one logit", "probabilities"])
def test_one_logit_and_probabilities_are_understood(kind: str) -> None:
    logits = torch.randn(10, 1)
    expected = torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1).double()
    readout = OutputReadout()
    readout.update(logits if kind == "one logit" else expected.float(), torch.arange(10) % 2)
    torch.testing.assert_close(readout.log_probabilities().exp(), expected, atol=1e-6, rtol=1e-5)


def test_serving_filters_by_a_loop() -> None:
    rho = 2 * torch.rand(9, 4, generator=torch.Generator().manual_seed(6)) - 1
    found = serving_filters(rho, top=3)
    for k in range(4):
        positive = rho[:, k].double().clamp(min=0) ** 2
        order = positive.argsort(descending=True)[:3]
        assert found.filters[k].tolist() == order.tolist()
        torch.testing.assert_close(found.shares[k], (positive[order] / positive.sum()).float())
    nobody = serving_filters(-rho.abs(), top=20)
    assert nobody.shares.shape == (4, 9)
    assert float(nobody.shares.abs().max()) == 0


Y = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: calibrated_readout(torch.rand(2, 3), Y), r"\(N, 2\)"),
        (lambda: calibrated_readout(torch.rand(2, 1), torch.tensor([0, 0])), r"\(N, 2\)"),
        (lambda: calibrated_readout(torch.tensor([[0.0, torch.nan], [0.0, 1.0]]), Y), "finite"),
        (lambda: calibrated_readout(torch.rand(2, 2), Y, folds=3), "folds"),
        (lambda: calibrated_readout(torch.rand(2, 2), Y, folds=1), "folds"),
        (lambda: calibration_error(torch.rand(2), Y), r"\(N, K\)"),
        (lambda: calibration_error(torch.rand(2, 2), Y, 0), "num_bins"),
        (lambda: decision_depth(torch.zeros(0, 3)), r"\(L, N\)"),
        (lambda: decision_depth(torch.zeros(3)), r"\(L, N\)"),
        (lambda: information_gain(torch.zeros(2, 3), torch.zeros(2)), r"\(3,\)"),
        (lambda: prediction_entropy(torch.zeros(2, 0)), "K"),
        (lambda: lost_and_found(torch.ones(2, 3).bool()), "two layers"),
        (lambda: serving_filters(torch.zeros(3)), r"\(C, K\)"),
        (lambda: serving_filters(torch.zeros(3, 2), 0), "top"),
        (lambda: OutputReadout().update(torch.rand(2, 2), torch.tensor([0, 2])), "output='readout'"),
    ],
)
def test_bad_input_is_named(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]
