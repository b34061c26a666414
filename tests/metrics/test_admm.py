"""The two-scale solver against cvxpy, scikit-learn, least squares and the conditions of optimality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor

from convscope.metrics.functional.admm import TwoScaleSums, TwoScaleWeights, two_scale_regression, two_scale_sums

cvxpy = pytest.importorskip("cvxpy")


def draws(seed: int, images: int = 3, copies: int = 60, p: int = 4, each: int = 3) -> dict[str, Tensor]:
    """Copies of images whose fine super-pixels are on or off, and an output that two regions make."""
    generator = torch.Generator().manual_seed(seed)
    q = p * each
    on = (torch.rand(images, copies, q, generator=generator) > 0.5).double()
    membership = torch.eye(p).repeat_interleave(each, 0).double()
    coarse = on @ membership / each * torch.rand(images, 1, p, generator=generator)
    fine = on * torch.rand(images, 1, q, generator=generator)
    output = coarse[..., 0] + 0.5 * fine[..., 5] + 0.05 * torch.randn(images, copies, generator=generator)
    weight = torch.rand(images, copies, generator=generator).double()
    return {"coarse": coarse, "fine": fine, "output": output, "weight": weight, "membership": membership}


def sums_of(data: dict[str, Tensor]) -> TwoScaleSums:
    return two_scale_sums(data["coarse"], data["fine"], data["output"], data["weight"])


def by_cvxpy(data: dict[str, Tensor], image: int, penalties: tuple[float, float], balance: float) -> float:
    z_c, z_f, y, h, to = (data[k].numpy() for k in ("coarse", "fine", "output", "weight", "membership"))
    fine = cvxpy.Variable(to.shape[0])
    coarse, root = to.T @ fine, np.sqrt(h[image])
    value = (
        0.5 * cvxpy.sum_squares(cvxpy.multiply(root, z_c[image] @ coarse - y[image]))
        + 0.5 * balance * cvxpy.sum_squares(cvxpy.multiply(root, z_f[image] @ fine - y[image]))
        + penalties[0] * cvxpy.norm1(coarse)
        + penalties[1] * cvxpy.norm1(fine)
    )
    problem = cvxpy.Problem(cvxpy.Minimize(value))
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    return float(problem.value)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalties", [(0.0, 0.0), (0.3, 0.1), (1.0, 0.5), (0.0, 0.4), (2.0, 0.0), (50.0, 50.0)])
@pytest.mark.parametrize("balance", [1.0, 0.2])
def test_the_objective_is_cvxpys(seed: int, penalties: tuple[float, float], balance: float) -> None:
    data = draws(seed)
    found = two_scale_regression(sums_of(data), data["membership"], *penalties, balance)
    assert bool(found.converged.all())
    for image in range(3):
        expected = by_cvxpy(data, image, penalties, balance)
        assert found.objective[image].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def smooth_gradient(data: dict[str, Tensor], found: TwoScaleWeights, balance: float) -> Tensor:
    sums, to = sums_of(data), data["membership"]
    coarse = (sums.coarse_gram @ found.coarse[..., None])[..., 0] - sums.coarse_moment
    fine = (sums.fine_gram @ found.fine[..., None])[..., 0] - sums.fine_moment
    return (to @ coarse[..., None])[..., 0] + balance * fine


@pytest.mark.parametrize("seed", range(4))
def test_some_subgradient_of_the_penalties_cancels_the_gradient(seed: int) -> None:
    """The conditions of Karush, Kuhn and Tucker, coarse super-pixel by coarse super-pixel."""
    data, (of_coarse, of_fine) = draws(seed), (0.3, 0.1)
    found = two_scale_regression(sums_of(data), data["membership"], of_coarse, of_fine)
    gradient = smooth_gradient(data, found, 1.0)
    for image in range(3):
        for place in range(4):
            inside = data["membership"][:, place] > 0
            needed, weights, total = -gradient[image, inside], found.fine[image, inside], found.coarse[image, place]
            # needed = of_coarse * s + of_fine * t, s common to the super-pixel and both in the subdifferentials of | |
            low = torch.where(weights == 0, needed - of_fine, needed - of_fine * weights.sign()).max()
            high = torch.where(weights == 0, needed + of_fine, needed - of_fine * weights.sign()).min()
            lowest, highest = (-of_coarse, of_coarse) if total == 0 else (of_coarse * total.sign(),) * 2
            assert float(low) <= float(highest) + 1e-7
            assert float(high) >= float(lowest) - 1e-7
            assert float(low) <= float(high) + 1e-7


@pytest.mark.parametrize("seed", range(4))
def test_no_small_feasible_step_goes_down(seed: int) -> None:
    data = draws(seed)
    sums, to = sums_of(data), data["membership"]
    found = two_scale_regression(sums, to, 0.3, 0.1)
    fine = found.fine.clone()
    generator = torch.Generator().manual_seed(seed)

    def objective(fine: Tensor) -> Tensor:
        coarse = (fine[:, None] @ to)[:, 0]
        misfit = ((data["coarse"] @ coarse[..., None])[..., 0] - data["output"]).square() * data["weight"]
        misfit = misfit + ((data["fine"] @ fine[..., None])[..., 0] - data["output"]).square() * data["weight"]
        return 0.5 * misfit.sum(1) + 0.3 * coarse.abs().sum(1) + 0.1 * fine.abs().sum(1)

    torch.testing.assert_close(objective(fine), found.objective, rtol=1e-9, atol=0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(100):
            step = size * torch.randn(fine.shape, generator=generator).double()
            assert bool((objective(fine + step) >= found.objective - 1e-12).all())


def test_without_penalties_it_is_least_squares_with_the_tie() -> None:
    data = draws(0)
    found = two_scale_regression(sums_of(data), data["membership"], 0.0, 0.0, 0.7)
    root = data["weight"].sqrt()
    for image in range(3):
        stacked = torch.cat([data["coarse"][image] @ data["membership"].T, 0.7**0.5 * data["fine"][image]])
        both = torch.cat([root[image], root[image]])
        target = torch.cat([data["output"][image], 0.7**0.5 * data["output"][image]])
        expected = np.linalg.lstsq((stacked * both[:, None]).numpy(), (target * both).numpy(), rcond=None)[0]
        np.testing.assert_allclose(found.fine[image], expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.coarse, (found.fine[:, None] @ data["membership"])[:, 0], rtol=0, atol=1e-8)


def test_one_scale_is_the_lasso() -> None:
    data = draws(1)
    p = data["coarse"].shape[2]
    sums = two_scale_sums(data["coarse"], data["coarse"], data["output"], data["weight"])
    found = two_scale_regression(sums, torch.eye(p), 0.2, 0.2)  # twice the same scale: twice the same problem
    for image in range(3):
        root, copies = data["weight"][image].sqrt(), data["output"].shape[1]
        lasso = Lasso(alpha=0.2 / copies, fit_intercept=False, tol=1e-14, max_iter=100_000)
        lasso.fit((data["coarse"][image] * root[:, None]).numpy(), (data["output"][image] * root).numpy())
        np.testing.assert_allclose(found.fine[image], lasso.coef_, atol=1e-7)


def test_a_warm_start_takes_fewer_steps_to_the_same_weights() -> None:
    data = draws(2)
    cold = two_scale_regression(sums_of(data), data["membership"], 0.3, 0.1)
    data["output"] = data["output"] + 0.001
    again = two_scale_regression(sums_of(data), data["membership"], 0.3, 0.1)
    warm = two_scale_regression(sums_of(data), data["membership"], 0.3, 0.1, start=cold)
    assert bool((warm.iterations <= again.iterations).all())
    torch.testing.assert_close(warm.objective, again.objective, rtol=1e-9, atol=0)


def test_a_step_limit_is_kept_and_said() -> None:
    data = draws(3)
    found = two_scale_regression(sums_of(data), data["membership"], 0.3, 0.1, max_iterations=3)
    assert found.iterations.tolist() == [3, 3, 3]
    assert not bool(found.converged.any())
    assert bool((found.primal_residual > 0).all())


def test_sums_add_up_over_chunks() -> None:
    data = draws(4)
    parts = [
        two_scale_sums(*(data[k][:, s] for k in ("coarse", "fine", "output", "weight")))
        for s in (slice(0, 7), slice(7, 60))
    ]
    for a, b, whole in zip(*parts, sums_of(data), strict=True):
        torch.testing.assert_close(a + b, whole, rtol=1e-12, atol=1e-12)


def test_padding_changes_nothing() -> None:
    data = draws(5)
    wide = {
        "coarse": torch.nn.functional.pad(data["coarse"], (0, 2)),
        "fine": torch.nn.functional.pad(data["fine"], (0, 5)),
    }
    membership = torch.nn.functional.pad(data["membership"], (0, 2, 0, 5))
    expected = two_scale_regression(sums_of(data), data["membership"], 0.3, 0.1)
    found = two_scale_regression(sums_of(data | wide), membership, 0.3, 0.1)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-8, atol=0)
    torch.testing.assert_close(found.fine[:, :12], expected.fine, rtol=0, atol=1e-6)
    assert found.fine[:, 12:].abs().max() == 0


def test_copies_that_say_too_little_still_have_a_best_objective() -> None:
    data = draws(6, copies=5)  # 12 unknowns, 5 copies, and two columns that are equal
    data["fine"][..., 1] = data["fine"][..., 0]
    found = two_scale_regression(sums_of(data), data["membership"], 0.05, 0.02)
    for image in range(3):
        assert found.objective[image].item() == pytest.approx(by_cvxpy(data, image, (0.05, 0.02), 1.0), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_the_data_does_not_matter(factor: float) -> None:
    data = draws(7)
    small = data | {"weight": data["weight"] * factor}
    expected = two_scale_regression(sums_of(data), data["membership"], 0.3, 0.1)
    found = two_scale_regression(sums_of(small), data["membership"], 0.3 * factor, 0.1 * factor)
    torch.testing.assert_close(found.objective, factor * expected.objective, rtol=1e-6, atol=0)


def test_an_output_of_zero_and_no_super_pixels_give_zero() -> None:
    data = draws(8)
    data["output"] = torch.zeros_like(data["output"])
    assert two_scale_regression(sums_of(data), data["membership"], 0.3, 0.1).fine.abs().max() == 0
    empty = two_scale_sums(torch.zeros(2, 5, 0), torch.zeros(2, 5, 0), torch.ones(2, 5), torch.ones(2, 5))
    found = two_scale_regression(empty, torch.zeros(0, 0), 0.3, 0.1)
    assert found.fine.shape == (2, 0)
    assert found.objective.tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coarse_penalty": -1.0}, "`coarse_penalty` must be a finite number of at least 0"),
        ({"fine_penalty": float("nan")}, "`fine_penalty` must be a finite number"),
        ({"fine_penalty": torch.ones(2)}, "or one for each image"),
        ({"balance": 0.0}, "balance=0.0: give a finite number, above 0"),
        ({"max_iterations": 0}, "max_iterations=0: give a whole number, at least 1"),
        ({"tolerance": 0.0}, "tolerance=0.0: give a finite number, above 0"),
        ({"membership": torch.ones(12, 4)}, "inside at most one coarse one"),
        ({"membership": torch.eye(4)}, r"must have shape \(3, 12, 4\) or \(12, 4\)"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    data = draws(0)
    arguments: dict[str, object] = {"membership": data["membership"], "coarse_penalty": 0.1, "fine_penalty": 0.1}
    with pytest.raises(ValueError, match=message):
        two_scale_regression(sums_of(data), **(arguments | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -torch.ones(3, 60)}, "weight must not be negative"),
        ({"output": torch.full((3, 60), torch.nan)}, "output must be finite"),
        ({"fine": torch.zeros(3, 59, 12)}, r"Give coarse \(B, K, p\)"),
        ({"output": torch.zeros(3, 59)}, r"Give coarse \(B, K, p\)"),
        ({"weight": torch.ones(3, 59)}, r"Give coarse \(B, K, p\)"),
        ({"weight": torch.ones(60)}, r"Give coarse \(B, K, p\)"),
    ],
)
def test_bad_copies_are_named(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sums_of(draws(0) | change)
