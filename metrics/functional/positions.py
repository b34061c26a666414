"""Probe of every position of a mask: which positions are read, and ridge that leaves whole samples out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics.functional._precision import as_double, standardise
from convscope.metrics.functional._validation import check_finite
from convscope.metrics.functional.ridge import DEFAULT_ALPHAS, Spectrum, check_alphas

BlockScorer = Callable[[Tensor], Tensor]
"""A probe prepared on fixed features: labels ``(N, P)`` in, scores ``(N, P, K)`` out, each sample left out whole."""


def spread_positions(index: Tensor, total: int, positions: int, seed: int = 0) -> Tensor:
    """Positions of each sample that are read: consecutive samples walk through one random order of all positions.

    The choice depends on a sample's number alone, not on how samples are divided; and over the samples every position
    comes up equally often, so that a class at the border is not missed.

    Args:
        index: ``(N,)`` each sample's number.
        total: positions there are, ``H · W``.
        positions: positions P read of each sample, at most ``total``.
        seed: of the order.

    Returns:
        ``(N, P)`` distinct positions in each row, in [0, total).

    Raises:
        ValueError: if ``positions`` is not in [1, total].

    Source: ours.

    Example:
        >>> import torch
        >>> spread_positions(torch.arange(3), total=6, positions=2).flatten().sort().values
        tensor([0, 1, 2, 3, 4, 5])
    """
    positions = whole_number("positions", positions, "a whole number of the positions there are", most=total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(index.device)
    return order[(index[:, None] * positions + torch.arange(positions, device=index.device)) % total]


def features_at(activation: Tensor, positions: Tensor, size: Sequence[int]) -> Tensor:
    """A layer's values at positions of a finer or coarser grid: its map, linearly interpolated to that grid.

    The same as ``F.interpolate(activation, size, mode="bilinear")`` read at these positions (linear in one dimension,
    trilinear in three); a linear probe of it is the upsampled prediction of a linear probe of the map itself.

    Args:
        activation: ``(N, C, *S)`` with one to three dimensions S.
        positions: ``(N, P)`` positions in the flattened grid.
        size: the grid's size, as many dimensions as S.

    Returns:
        ``(N, P, C)`` in float32, or float64 where the activation is.

    Raises:
        ValueError: if the numbers of dimensions disagree.

    Source: the field's protocol of linear segmentation probes.

    Example:
        >>> import torch
        >>> ramp = torch.tensor([[[0.0, 1.0]]])
        >>> features_at(ramp, torch.tensor([[0, 1, 2, 3]]), (4,)).flatten().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if activation.ndim - 2 != len(size) or len(size) not in (1, 2, 3):
        raise ValueError(
            f"An activation {tuple(activation.shape)} has {activation.ndim - 2} dimensions of positions, but the "
            f"targets have {len(size)}, {tuple(size)}: it cannot be read position by position."
        )
    maps = activation.detach().to(torch.promote_types(activation.dtype, torch.float32))
    if len(size) == 1:
        maps, size = maps.unsqueeze(2), (1, *size)
    places = torch.unravel_index(positions, tuple(size))
    # grid_sample counts from -1 to 1 over the outer edges of the map, the last dimension first.
    scaled = [(2 * place + 1) / length - 1 for place, length in zip(places, size, strict=True)]
    grid = torch.stack(scaled[::-1], dim=-1).to(maps.dtype)
    shape = (len(maps), *[1] * (len(size) - 1), positions.shape[1], len(size))
    read = F.grid_sample(maps, grid.view(shape), mode="bilinear", padding_mode="border", align_corners=False)
    return read.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class _Blocks:
    """Rows in their principal axes, a block for each sample; what is ignored is zero and in no statistic.

    Attributes:
        rows: ``(N, P, r + 1)``, the last column the intercept's share: the fit's hat matrix is a product of these rows.
        eigenvalues: ``(r,)``.
        mask: ``(N, P)``, 1.0 where a position counts.
        gram: ``(N, r + 1, r + 1)`` products of each block's columns; None where there are more columns than rows.
    """

    rows: Tensor
    eigenvalues: Tensor
    mask: Tensor
    gram: Tensor | None

    @classmethod
    def of(cls, features: Tensor, counted: Tensor) -> _Blocks:
        spectrum = Spectrum.of(standardise(features[counted]))
        width, mask = len(spectrum.eigenvalues), counted.double().to(spectrum.components.device)
        rows = spectrum.components.new_zeros(*counted.shape, width + 1)
        rows[..., :width][counted] = spectrum.components
        # The mean over all positions that count, in which ignored positions have no share.
        rows[..., width] = mask / mask.sum().sqrt()
        return cls(rows, spectrum.eigenvalues, mask, rows.mT @ rows if width + 1 < counted.shape[1] else None)

    def left_out(self, truth: Tensor, alpha: float) -> Tensor:
        """Predictions ``(N, P, K)`` of each sample's targets from all other samples."""
        mean = truth.sum(dim=(0, 1)) / self.mask.sum()
        centred = (truth - mean) * self.mask[:, :, None]
        inverse, components = 1 / (self.eigenvalues + alpha), self.rows[..., :-1]
        weights = inverse[:, None] * (components.flatten(0, 1).T @ centred.flatten(0, 1))
        return truth - self._without(centred - components @ weights, torch.cat([inverse, inverse.new_ones(1)]))

    def _without(self, residual: Tensor, inverse: Tensor) -> Tensor:
        """Residuals of fits without each block: ``(I - H)^-1`` times those of the fit with it, ``H = R D R^T``."""
        if self.gram is None:
            return _solve_less_than_one((self.rows * inverse) @ self.rows.mT, residual)
        # Woodbury: the same from a system as wide as the features, where a block has more rows than that.
        projected = inverse[:, None] * (self.rows.mT @ residual)
        return residual + self.rows @ _solve_less_than_one(inverse[:, None] * self.gram, projected)


def _solve_less_than_one(matrix: Tensor, right: Tensor) -> Tensor:
    """``(I - matrix)^-1 right`` of each block."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    solved: Tensor = torch.linalg.solve(identity - matrix, right)
    return solved


def position_scorer(features: Tensor, target: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS) -> BlockScorer:
    r"""Ridge on one-hot targets of every position, each sample's positions predicted without the whole sample.

    Positions of one image resemble each other, so leaving out single positions would let a probe look up its
    neighbours. With the block :math:`H_{BB}` of the hat matrix that belongs to a sample's positions,

    .. math:: \hat y_B^{(-B)} = y_B - (I - H_{BB})^{-1} (y_B - \hat y_B)

    is exactly what a probe fitted without the sample says about it. The penalty is the one of ``alphas`` with the
    least squared error of these predictions. Features are standardised over all positions; no label is seen.

    Args:
        features: ``(N, P, C)``.
        target: ``(N, P)`` class indices; negative ones (-100) are ignored.
        alphas: the grid of penalties.

    Returns:
        A function from labels ``(N, P)``, ignored at the same positions, to float64 scores ``(N, P, K)``. Columns are
        the classes present, sorted.

    Raises:
        ValueError: if shapes disagree, a feature is NaN or Inf, there are fewer than two samples or classes, or the
            grid is empty or not positive.

    Source: reconstruction (linear probes, Alain & Bengio 2016).

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 9.0], [1.0, 8.0], [0.5, 9.5]])[:, :, None]
        >>> y = torch.tensor([[0, 1], [0, 1], [0, 1]])
        >>> position_scorer(x, y)(y).argmax(dim=2)
        tensor([[0, 1],
                [0, 1],
                [0, 1]])
    """
    check_alphas(alphas)
    _check(features, target)
    blocks = _Blocks.of(as_double(features), target >= 0)
    truth = _one_hot(target).to(blocks.mask.device)

    def error(alpha: float) -> float:
        return float((blocks.left_out(truth, alpha) - truth).square().sum())

    chosen = min(alphas, key=error)
    return lambda labels: blocks.left_out(_one_hot(labels).to(truth.device), chosen)


def fair_position_scorer(features: Tensor, target: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS) -> BlockScorer:
    """As :func:`position_scorer` for an informative layer, and the shares of the classes for any other.

    Without a sample its classes are rarer than with it, and a fit that knows nothing names the others. So the fit is
    used only where its squared error is lower than that of the shares of the classes in the other samples, by more than
    two standard errors over samples. Otherwise every position scores the shares in all samples.

    Args:
        features: ``(N, P, C)``.
        target: ``(N, P)`` class indices; negative ones (-100) are ignored.
        alphas: the grid of penalties.

    Returns:
        A function as :func:`position_scorer` returns.

    Raises:
        ValueError: if :func:`position_scorer` would raise it.

    Source: ours.

    Example:
        >>> import torch
        >>> y = torch.tensor([[0, 0], [0, 1], [0, 0]])
        >>> fair_position_scorer(torch.zeros(3, 2, 1), y)(y)[0, 0].tolist()
        [0.8333333333333334, 0.16666666666666666]
    """
    exact = position_scorer(features, target, alphas)
    truth = _one_hot(target)
    own, counted = truth.sum(dim=1, keepdim=True), (target >= 0).sum(dim=1).double()[:, None, None]
    # What the shares of the classes in all other samples leave unexplained.
    without = truth - (own.sum(dim=0) - own) / (counted.sum() - counted)
    fitted = truth - exact(target).to(truth.device)
    blind, error = (part.square().sum(dim=2).mul(target >= 0).sum(dim=1) for part in (without, fitted))
    gain = blind - error
    needed = 2 * gain.std() / len(gain) ** 0.5 + 1e-9 * blind.mean()  # where both are the same, rounding must not win

    def shares(labels: Tensor) -> Tensor:
        truth = _one_hot(labels)
        return (truth.sum(dim=(0, 1)) / truth.sum()).expand_as(truth)

    return exact if bool(gain.mean() > needed) else shares


def exchanged_labels(target: Tensor, order: Tensor) -> Tensor:
    """Each sample with the labels of another, as a control; repeated or cut where that one has fewer or more.

    Args:
        target: ``(N, P)`` class indices, negative ones ignored, and first in each row those that count.
        order: ``(N,)`` whose labels each sample gets.

    Returns:
        ``(N, P)`` labels, ignored where ``target`` is.

    Raises:
        ValueError: if a sample has no position that counts.

    Source: reconstruction (Hewitt & Liang 2019, with permuted labels as the control).

    Example:
        >>> import torch
        >>> exchanged_labels(torch.tensor([[1, 2, 3], [4, 5, -100]]), torch.tensor([1, 0]))
        tensor([[   4,    5,    4],
                [   1,    2, -100]])
    """
    counts = (target >= 0).sum(dim=1)
    if bool((counts == 0).any()):
        raise ValueError(f"{int((counts == 0).sum())} samples have no position that counts. Leave them out first.")
    places = torch.arange(target.shape[1], device=target.device) % counts[order][:, None]
    return target[order].gather(1, places).where(target >= 0, target)


def counted_first(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Positions that count before those that are ignored, and samples that have none left out."""
    some = (target >= 0).any(dim=1)
    features, target = features[some], target[some]
    order = (target < 0).long().argsort(dim=1, stable=True)
    return features.gather(1, order[:, :, None].expand_as(features)), target.gather(1, order)


def _one_hot(target: Tensor) -> Tensor:
    classes = torch.unique(target[target >= 0])
    membership: Tensor = target[:, :, None] == classes
    return as_double(membership)


def _check(features: Tensor, target: Tensor) -> None:
    if features.ndim != 3 or target.shape != features.shape[:2]:
        raise ValueError(
            f"The features must have shape (N, P, C) and the target (N, P), got {tuple(features.shape)} and "
            f"{tuple(target.shape)}."
        )
    check_finite("features", features)
    counted = target >= 0
    if int(counted.any(dim=1).sum()) < 2 or len(torch.unique(target[counted])) < 2:
        raise ValueError(
            f"A probe of positions needs at least 2 samples and 2 classes, got {int(counted.any(dim=1).sum())} "
            f"samples and {len(torch.unique(target[counted]))} classes. Enlarge the held-out set."
        )
