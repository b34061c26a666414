"""The form of the record: names of its tensors, its version, and the largest size of a check.

A record is a set of tensors of TensorBoard's plugin ``convscope`` in a run's event file, one event per tag and check.
docs/record.md describes it; a change that an old reader would misread must raise :data:`VERSION`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PLUGIN = "convscope"
VERSION = 1

SESSION = f"{PLUGIN}/session"
MANIFEST = f"{PLUGIN}/manifest"
INCIDENTS = f"{PLUGIN}/incidents"
LOGGED = f"{PLUGIN}/logged"
"""What alerts judge besides the tables, after each validation, else epoch: JSON, ``epoch`` and ``values`` by tag."""
CHECK = f"{PLUGIN}/check"
"""The last tensor of a check, which is incomplete without it: epoch, epochs trained, place in :data:`TRIGGERS`."""

TRIGGERS = ("start", "step", "validation", "train")


def values_tag(family: str, quantity: str) -> str:
    """Tag of one quantity of all layers: float32 ``(layers,)``, NaN where it was not measured."""
    return f"{PLUGIN}/values/{family}/{quantity}"


def summary_tag(family: str) -> str:
    """Tag of the numbers over depth, in the order of the manifest: float32."""
    return f"{PLUGIN}/summary/{family}"


def filters_tag(family: str, layer: str) -> str:
    """Tag of one value per filter: float16 ``(C,)``, in units of the layer's scale."""
    return f"{PLUGIN}/filters/{family}/{layer}"


def scales_tag(family: str) -> str:
    """Tag of the scales of all layers' filter values: float32 ``(layers,)``."""
    return f"{PLUGIN}/scales/{family}"


def matrix_tag(family: str, layer: str) -> str:
    """Tag of a correlation matrix: float16, its upper triangle with the diagonal, in the order of :func:`order_tag`."""
    return f"{PLUGIN}/matrix/{family}/{layer}"


def order_tag(family: str, layer: str) -> str:
    """Tag of the matrix's filters: uint16 ``(2, C)``, their cluster order and each one's most correlated partner."""
    return f"{PLUGIN}/order/{family}/{layer}"


def partner_tag(family: str, layer: str) -> str:
    """Tag of the correlation with the partner: float16 ``(C,)``."""
    return f"{PLUGIN}/partner/{family}/{layer}"


def array_tag(family: str, name: str) -> str:
    """Tag of a further array of a callback's own; it stays until another one is written."""
    return f"{PLUGIN}/array/{family}/{name}"


def picture_tag(tag: str) -> str:
    """Tag of a picture that a callback drew: PNG, under the tag that it has in TensorBoard."""
    return f"{PLUGIN}/picture/{tag}"


def budget(layers: int) -> int:
    """Bytes that the matrices and vectors of one check may take, pictures not counted.

    >>> budget(6), budget(20), budget(100), budget(300)
    (98000, 98000, 980000, 980000)
    """
    return max(98_000, min(980_000, 9_800 * layers)) if layers > 20 else 98_000


def matrix_side(cells: int) -> int:
    """The largest side of a symmetric matrix of which ``cells`` values may be kept.

    >>> matrix_side(6), matrix_side(9)
    (3, 3)
    """
    return int((np.sqrt(8 * max(cells, 0) + 1) - 1) // 2)


def pack(matrix: npt.ArrayLike) -> npt.NDArray[np.float16]:
    """The upper triangle of a symmetric matrix with its diagonal, row by row."""
    square = np.asarray(matrix, dtype=np.float64)
    return square[np.triu_indices(len(square))].astype(np.float16)


def unpack(packed: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The symmetric matrix whose upper triangle :func:`pack` kept.

    >>> unpack(pack([[1.0, 0.5], [0.5, 1.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    kept = np.asarray(packed, dtype=np.float32)
    side = matrix_side(len(kept))
    square = np.zeros((side, side), dtype=np.float32)
    square[np.triu_indices(side)] = kept
    return np.where(np.tri(side, k=-1, dtype=bool), square.T, square)
