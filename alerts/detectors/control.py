"""Control over many series at once: false discovery rate, and quorums."""

from __future__ import annotations

import math
from collections.abc import Sequence

from convscope._arguments import number, refuse, share


def benjamini_hochberg(p_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    r"""Reject hypotheses so that on average at most a share ``alpha`` of the rejected were true.

    The largest :math:`k` with :math:`p_{(k)} \le \alpha k / m` is sought; the :math:`k` smallest are rejected.

    Args:
        p_values: ``m`` values in [0, 1], of tests that are independent or positively dependent (layers are).
        alpha: False discovery rate, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    Source: Benjamini & Hochberg 1995.

    Example:
        >>> benjamini_hochberg([0.001, 0.03, 0.8, 0.04], alpha=0.06)
        [True, True, False, True]
    """
    alpha = share("alpha", alpha, "a rate", below_one=True)
    if not all(0 <= p <= 1 for p in p_values):
        raise refuse("p_values", list(p_values), "numbers in [0, 1]")
    count = len(p_values)
    passed = [p for rank, p in enumerate(sorted(p_values), 1) if p <= alpha * rank / count]
    limit = passed[-1] if passed else -1.0
    return [p <= limit for p in p_values]


def quorum(total: int, needed: float) -> int:
    """Number of series, of ``total``, that must agree.

    Args:
        total: Number of series that can judge.
        needed: A count (a whole number, at least 1), or a share in (0, 1); a share is rounded up to at least 1.

    Raises:
        ValueError: if ``needed`` is neither.

    Source: ours.

    Example:
        >>> quorum(5, 2), quorum(5, 0.5), quorum(1, 0.5)
        (2, 3, 1)
    """
    number("quorum", needed, least=0.0, above=True)
    if needed < 1:
        return max(1, math.ceil(needed * total))
    if needed != int(needed):
        raise refuse("quorum", needed, "a whole number of series, or a share in (0, 1)")
    return int(needed)
