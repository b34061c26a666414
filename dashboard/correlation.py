"""Correlation of a layer's filters at one check, as the record keeps it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Correlation:
    """A layer's filter correlation at one check.

    Attributes:
        matrix: ``(K, K)``, filters in cluster order; if K is below the number of filters C, a cell is a block of
            neighbours with their mean ``|ρ|`` and its prevailing sign. NaN for filters that are constant.
        order: ``(C,)`` filter numbers in cluster order.
        starts: ``(K,)`` place in ``order`` at which each row's block begins.
        partner: ``(C,)`` for each filter the one that it correlates with most, itself if it is constant.
        rho: ``(C,)`` that correlation, -1 to 1.
    """

    matrix: Numbers
    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    partner: npt.NDArray[np.int64]
    rho: Numbers

    def pairs(self, least: float = 0.9) -> list[tuple[int, int, float]]:
        """Filters and their partners with ``|ρ|`` of at least ``least``, the closest first, each pair once."""
        found = {
            (min(one, other), max(one, other)): float(rho)
            for one, (other, rho) in enumerate(zip(self.partner.tolist(), self.rho, strict=True))
            if other != one and abs(rho) >= least
        }
        return sorted(((*pair, rho) for pair, rho in found.items()), key=lambda pair: -abs(pair[2]))
