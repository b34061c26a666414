"""Compact form of a correlation matrix: cells in cluster order, and each filter's closest partner."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from convscope.loggers._heatmap import shrink_signed

Matrix = npt.NDArray[np.float64]


class PackedCorrelation(NamedTuple):
    """``cells`` ``(K, K)`` in cluster order, for each filter its ``partner`` ``(C,)`` and their ``rho`` ``(C,)``."""

    cells: Matrix
    partner: npt.NDArray[np.intp]
    rho: Matrix


def packed_correlation(matrix: Matrix, order: npt.NDArray[np.intp], side: int) -> PackedCorrelation:
    """Shrink a correlation matrix ``(C, C)`` to ``side``, as its heat-map does; constant filters are NaN.

    >>> packed = packed_correlation(np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 0.0]]), np.array([0, 1, 2]), 3)
    >>> packed.partner.tolist(), packed.rho.round(1).tolist()
    ([1, 0, 2], [0.9, 0.9, 0.0])
    """
    constant = ~(np.diagonal(matrix) > 0)
    shown = np.where(constant[:, None] | constant[None, :], np.nan, matrix)[np.ix_(order, order)]
    size = np.where(np.isfinite(matrix), np.abs(matrix), 0.0)
    np.fill_diagonal(size, -1.0)
    numbers = np.arange(len(matrix))
    partner = size.argmax(axis=1)
    alone = constant | (len(matrix) < 2)
    partner = np.where(alone, numbers, partner)
    rho = np.where(alone, 0.0, matrix[numbers, partner])
    return PackedCorrelation(shrink_signed(shown, max(1, side)), partner, np.nan_to_num(rho))
