"""The ``fit`` fixture of the callbacks' tests."""

from tests.callbacks.conftest import fit

__all__ = ["fit"]
