"""Names of the classes: as the user gives them, or as the data set has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import ConcatDataset

from convscope._arguments import refuse
from convscope.capture.data.targets import TargetSummary

_DEEPEST = 16  # wrappers around a data set; one that holds itself must end somewhere


def check_class_names(names: Any, classes: int | tuple[int, ...] | None) -> tuple[str, ...] | None:
    """Names as the user gave them.

    Raises:
        ValueError: if they are no list of at least two texts, or not as many as there are classes.
    """
    if names is None:
        return None
    found = _texts(names)
    if found is None:
        raise refuse(
            "HeldOut(class_names",
            names,
            "a list of at least two texts, one a class in the order of the labels, or None",
        )
    count = classes if isinstance(classes, int) or classes is None else len(classes)
    if count not in (None, len(found)):
        raise ValueError(
            f"HeldOut(class_names) has {len(found)} names, but classes= says {count}; give a name for each"
        )
    return found


def names_in(source: Any) -> tuple[str, ...] | None:
    """Names that a data set has as ``classes``, found through loaders, subsets and other wrappers; None without any.

    Data sets that are joined must agree. Data sets of Hugging Face have their names in ``features``.

    >>> import torch
    >>> from torch.utils.data import Subset, TensorDataset
    >>> class Animals(TensorDataset):
    ...     classes = ["cat", "dog"]
    >>> animals = Animals(torch.zeros(2))
    >>> names_in(ConcatDataset([Subset(animals, [0]), animals]))
    ('cat', 'dog')
    >>> names_in([1, 2]) is None
    True
    """
    return _names_in(source, _DEEPEST)


def _names_in(source: Any, deepest: int) -> tuple[str, ...] | None:
    if source is None or deepest == 0:
        return None
    if isinstance(source, ConcatDataset):
        found = {_names_in(part, deepest - 1) for part in source.datasets}
        return found.pop() if len(found) == 1 else None
    known = _texts(_attribute(source, "classes")) or _of_features(_attribute(source, "features"))
    return known or _names_in(_attribute(source, "dataset"), deepest - 1)


def _of_features(features: Any) -> tuple[str, ...] | None:
    """Names from the one column of labels that has names."""
    columns = features.values() if isinstance(features, Mapping) else []
    found = [names for column in columns if (names := _texts(_attribute(column, "names"))) is not None]
    return found[0] if len(found) == 1 else None


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # a property of the user's that fails says nothing of names
        return None


def _texts(names: Any) -> tuple[str, ...] | None:
    """At least two texts; ImageNet has a tuple of synonyms for each class, of which the first is taken."""
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) < 2:
        return None
    first = [name[0] if isinstance(name, tuple) and name else name for name in names]
    return tuple(first) if all(isinstance(name, str) and name for name in first) else None


def wrong_count(names: Sequence[str], summary: TargetSummary | None, outputs: int = 0) -> str | None:
    """A sentence that says why there cannot be so many classes; None if nothing rules it out.

    Args:
        names: The names.
        summary: The targets; a row has one name per column.
        outputs: Number of classes that the model's outputs distinguish, 0 if unknown.
    """
    if outputs not in (0, len(names)):
        return f"the model's outputs tell {outputs} classes apart"
    if summary is None:
        return None
    if not summary.single and len(summary.shape) == 1 and (summary.binary or summary.shares):
        return None if summary.shape[0] == len(names) else f"a target is a row of {summary.shape[0]} classes"
    if summary.single and not summary.floating and summary.classes and max(summary.classes) >= len(names):
        return f"a held-out label is {max(summary.classes)}"
    return None
