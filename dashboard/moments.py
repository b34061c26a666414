"""Words for moments, numbers and layers, as tab, table and report use them."""

from __future__ import annotations

import math

from convscope.dashboard.record import Run


def moment(run: Run, check: int) -> str:
    """Moment of a check: "before training", "epoch 3", "step 120"."""
    trigger = run.triggers[check]
    if trigger == "start":
        return "before training"
    return f"step {run.steps[check]}" if trigger == "step" else f"epoch {int(run.epochs[check]) - 1}"


def number(value: float) -> str:
    """A number with three significant digits; "–" if it was not measured.

    >>> [number(value) for value in (0.51234, 123.4, 0.0, 2.5e-6, float("nan"))]
    ['0.512', '123', '0', '2.5e-06', '–']
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def percent(share: float) -> str:
    """A share as a percentage.

    >>> percent(0.256), percent(0.004), percent(0.0)
    ('26 %', '0.4 %', '0 %')
    """
    return f"{100 * share:.1f} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def count(amount: int, word: str) -> str:
    """A word with its number.

    >>> count(1, "check"), count(3, "check")
    ('1 check', '3 checks')
    """
    return f"{amount} {word}{'' if amount == 1 else 's'}"


def listed(names: list[str], most: int = 3) -> str:
    """Names in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c", "d", "e"])
    ('a', 'a and b', 'a, b, c and 2 more')
    """
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
