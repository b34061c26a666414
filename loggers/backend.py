"""The interface of loggers for histograms, pictures and texts; scalars are sent by Lightning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Layout = Mapping[str, Mapping[str, Sequence[str]]]
"""Charts: category, title of a chart, exact tags of its scalars."""
Pixels = npt.NDArray[np.uint8]


class Backend(ABC):
    """Writes the histograms, pictures and texts of one logger.

    A backend of your own implements :meth:`of`, :meth:`histogram`, :meth:`image` and :meth:`text`, and is made known
    with :func:`register_backend`. An error in a method is logged once and costs only this logger; training goes on.
    """

    @classmethod
    @abstractmethod
    def of(cls, logger: Any) -> Backend | None:
        """The backend of this logger, None if it is of another kind."""

    @abstractmethod
    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        """Write the distribution of ``values``; NaN and infinite ones are left out, see :func:`finite`."""

    @abstractmethod
    def image(self, tag: str, array: Pixels, step: int) -> None:
        """Write one picture, ``(H, W, 3)`` of uint8."""

    @abstractmethod
    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write Markdown."""

    def layout(self, charts: Layout) -> None:
        """Arrange scalars in charts, if the logger has charts."""
        return

    def scalar_tag(self, tag: str) -> str:
        """The name under which the logger accepts a scalar of ours; not ``tag`` if it has rules for names."""
        return tag

    @property
    def free_space(self) -> float:
        """Free bytes in the place where the logger writes; infinite if that is not known."""
        return math.inf


def is_a(logger: Any, name: str) -> bool:
    """Return whether a logger is of the class with this name, or of one derived from it.

    By name, since Lightning's classes exist twice, in ``lightning.pytorch`` and in ``pytorch_lightning``.

    >>> is_a(True, "int"), is_a(True, "str")
    (True, False)
    """
    return any(kind.__name__ == name for kind in type(logger).__mro__)


def finite(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The finite values, flat.

    >>> finite([[1.0, float("nan")], [float("inf"), 2.0]]).tolist()
    [1.0, 2.0]
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def check_picture(tag: str, array: Pixels) -> None:
    """Refuse an array that is not a picture.

    Raises:
        ValueError: if ``array`` is not ``(H, W, 3)`` of uint8, or is empty.
    """
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"image {tag!r} must be a non-empty (H, W, 3) uint8 array, got shape {array.shape} of "
            f"{array.dtype}; scale floats to 0..255 and convert with .astype(np.uint8)"
        )


def claim(kinds: dict[str, str], tag: str, kind: str) -> None:
    """Note the kind of a tag; TensorBoard would show only its first kind.

    Raises:
        ValueError: if the tag is of another kind already.
    """
    first = kinds.setdefault(tag, kind)
    if first != kind:
        raise ValueError(
            f"tag {tag!r} is a {first} in this run and TensorBoard would not show its {kind} too; "
            f"give the {kind} a tag of its own"
        )
