"""TensorBoard's writer of a logger, recognised by its methods, since many logger classes wrap one."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("convscope")

_OFFERS = ("add_scalar", "add_histogram", "add_image", "add_text", "add_custom_scalars")


def summary_writer(logger: Any) -> SummaryWriter | None:
    """``logger.experiment`` if it is a ``SummaryWriter`` or has all its methods; None for any other logger.

    Methods must be in the class: Lightning's stand-in for a disabled logger has attributes of any name.

    >>> import tempfile, types
    >>> with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
    ...     summary_writer(types.SimpleNamespace(experiment=writer)) is writer
    True
    >>> summary_writer(types.SimpleNamespace(experiment={})), summary_writer(object())
    (None, None)
    """
    try:
        experiment = getattr(logger, "experiment", None)
    except Exception as error:  # a connection of another tool, which may fail in its own way
        log.debug("convscope: %s has no experiment to show (%s)", type(logger).__name__, error)
        return None
    return experiment if all(hasattr(type(experiment), name) for name in _OFFERS) else None
