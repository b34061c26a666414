"""Stand-ins, while a pass runs, for objects that cannot be written to and restored."""

from __future__ import annotations

import copy
import logging
import warnings
from functools import lru_cache
from typing import Any

import torch

from convscope.capture.state.put_back import same
from convscope.capture.state.reach import CACHE, is_iterator, is_writer, may_need_stand_in
from convscope.capture.state.tensor_state import needs_stand_in, stand_in

log = logging.getLogger("convscope")


class StandIns:
    """One stand-in per object that needs one, wherever it is found."""

    def __init__(self) -> None:
        self._made_for: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any) -> Any:
        """The value's stand-in, the same wherever it is found; the value itself if it needs none."""
        if id(value) not in self._made_for:
            try:
                other = self._made(value)
            except Exception as error:
                other = value
                say_once(f"{named(value)} has no stand-in for a check ({type(error).__name__}: {error})")
            self._made_for[id(value)] = (value, other)
        return self._made_for[id(value)][1]

    def _made(self, value: Any) -> Any:
        if needs_stand_in(value):
            return stand_in(value)
        if isinstance(value, tuple) and type(value) is not torch.Size:
            parts = [self.of(part) if may_need_stand_in(type(part)) else part for part in value]
            if all(map(same, parts, value)):
                return value
            return type(value)._make(parts) if hasattr(value, "_make") else type(value)(parts)
        if isinstance(value, CACHE):
            return lru_cache(**value.cache_parameters())(value.__wrapped__)
        if is_iterator(value):
            return _copied(value)
        return Silent() if is_writer(type(value)) else value


class Silent:
    """Stand-in for a writer: every attribute is a call that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        return None


def _copied(iterator: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Python 3.12 on, copies of itertools' iterators are deprecated
        try:
            if type(iterator).__module__ in ("builtins", "itertools"):
                return copy.deepcopy(iterator)
        except TypeError:
            pass
    say_once(
        f"the network holds a {type(iterator).__name__}, whose position cannot be put back: if its forward takes from "
        "it in evaluation mode, checks change what training gets; use a list and an index"
    )
    return iterator


def named(item: Any) -> str:
    """Name of an object for messages."""
    return item if isinstance(item, str) else f"an object of type {type(item).__name__}"


@lru_cache(maxsize=1000)
def say_once(sentence: str) -> None:
    """Log a warning about a limit of a snapshot, once per sentence."""
    log.warning("convscope: %s", sentence)
