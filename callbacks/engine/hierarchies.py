"""Lightning under two import names, ``lightning.pytorch`` and ``pytorch_lightning``: one code, two class hierarchies.

``isinstance`` with a class of one name is false for objects of the other. convscope builds on ``lightning.pytorch`` and
never imports ``pytorch_lightning``; once somebody else does, convscope's own classes become subclasses of both.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.utilities import exceptions

T = TypeVar("T")
_OLDER = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}


def both(kind: type[T]) -> tuple[type[T], ...]:
    """A class of ``lightning.pytorch`` and, where ``pytorch_lightning`` is imported, its twin: for ``isinstance``."""
    package = next((name for name in _OLDER if kind.__module__.startswith(name)), "")
    module = sys.modules.get(_OLDER.get(package, "") + kind.__module__.removeprefix(package))
    twin = getattr(module, kind.__name__, kind)
    return (kind,) if twin is kind else (kind, twin)


class Callback(pl.Callback):
    """Base of convscope's callbacks: a ``Callback`` of either name."""


class MisconfigurationException(exceptions.MisconfigurationException):
    """A mistake of the user's, found before training; to be caught under either name."""


class _Adopter(MetaPathFinder):
    """Notice imports, and find no module.

    Trainer and LightningCLI of ``pytorch_lightning`` ask whether a callback is a ``Callback`` before any of its methods
    is called, so that anything later than the import would be too late.
    """

    adopted = False

    def find_spec(self, name: str, *_: Any) -> None:
        if not self.adopted and name.startswith("pytorch_lightning."):
            self.adopt()

    def adopt(self) -> None:
        """Give convscope's classes a second base once ``pytorch_lightning`` has defined it."""
        callback, mistake = both(pl.Callback), both(exceptions.MisconfigurationException)
        if len(callback) == len(mistake) == 2:
            Callback.__bases__, MisconfigurationException.__bases__ = callback, mistake
            self.adopted = True


_adopter = _Adopter()
_adopter.adopt()
sys.meta_path.insert(0, _adopter)  # the first, since finders after a successful one are not asked
