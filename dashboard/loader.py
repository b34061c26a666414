"""Entry point of the tab for TensorBoard, which imports it at every start.

An error while this module is imported or while flags are handled would end the whole ``tensorboard`` command. So it
imports next to nothing, and what may fail is caught.
"""

from __future__ import annotations

import logging
from typing import Any

from tensorboard.plugins import base_plugin


class Loader(base_plugin.TBLoader):
    """Loads the tab; without it TensorBoard starts as usual."""

    def fix_flags(self, flags: Any) -> None:
        """Keep every check of the record, unless the user gave a number of samples: sampling would drop some."""
        try:
            flags.samples_per_plugin.setdefault("convscope", 0)
        except Exception:
            _log().warning("convscope: every check is kept only with --samples_per_plugin convscope=0", exc_info=True)

    def load(self, context: base_plugin.TBContext) -> Any:
        """The tab's back end, or None if it cannot be loaded."""
        try:
            from convscope.dashboard.plugin import ConvscopePlugin

            return ConvscopePlugin(context)
        except Exception:
            _log().warning("convscope: the tab could not be loaded, all others work", exc_info=True)
            return None


def _log() -> logging.Logger:
    return logging.getLogger("tensorboard")
