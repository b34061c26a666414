"""Plain values for JSON: numbers with the digits that a picture needs, NaN and infinities as null."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt


def plain(value: Any) -> Any:
    """Lists, dicts, texts and numbers that JSON can hold; bytes as base64, what is not finite as None.

    >>> plain({"a": np.array([0.1234567891, np.nan]), "b": b"png", "c": float("inf")})
    {'a': [0.123457, None], 'b': 'cG5n', 'c': None}
    """
    if isinstance(value, np.ndarray):
        return numbers(value) if value.dtype.kind == "f" else plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, dict):
        return {str(key): plain(kept) for key, kept in value.items()}
    if isinstance(value, list | tuple):
        return [plain(kept) for kept in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def numbers(table: npt.NDArray[np.floating[Any]], digits: int = 6) -> Any:
    """Nested lists of an array's numbers, rounded to significant digits; None where they are not finite.

    >>> numbers(np.array([[1 / 3, 0.0], [2e-9 / 3, np.inf]]), digits=3)
    [[0.333, 0.0], [6.67e-10, None]]
    """
    flat = np.asarray(table, dtype=np.float64).ravel().tolist()
    kept = [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in flat]
    return np.array(kept, dtype=object).reshape(np.shape(table)).tolist()


def as_json(value: Any) -> str:
    """Compact JSON of a plain value, in ASCII."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False)
