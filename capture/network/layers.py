"""Choice of the layers to observe: by glob, regular expression, module type, callable or exact name."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Any

from torch import nn

from convscope.capture.network.names import unique
from convscope.capture.network.trace import Layer, LayerId, Trace

LayerEntry = str | re.Pattern[str] | type | Callable[[str, nn.Module], bool]
# Types that YAML has come first: otherwise LightningCLI cannot write a list of names back into the config it saves.
LayerSpec = str | Sequence[str] | LayerEntry | Sequence[LayerEntry] | None


def select_layers(trace: Trace, spec: LayerSpec = None, *, raw: bool = False) -> list[Layer]:
    """Layers of a traced network that ``spec`` names, in execution order.

    Args:
        trace: The traced network.
        spec: None for every conv unit; or one entry, or a sequence of entries. An entry is a glob or an exact
            name (``"layer1.*"``), a regular expression (``"re:conv[12]$"`` or a compiled pattern), a module
            class, or ``callable(name, module) -> bool``. Each entry is compared with the conv units first;
            where it matches none of them, against every module that ran.
        raw: Observe a convolution's own output instead of the output of its norm and activation.

    Raises:
        ValueError: if the network ran no convolution and ``spec`` is None, or an entry matches nothing.
    """
    units = trace.units(raw=raw)
    if spec is None:
        return units or _no_convolution(trace)
    chosen: dict[LayerId, Layer] = {}
    for entry in as_entries(spec):
        for layer in _matches(entry, units) or _matches(entry, trace.modules()) or _no_match(entry, trace):
            chosen.setdefault(layer.id, layer)
    return _apart(sorted(chosen.values(), key=lambda layer: layer.order))


def _apart(layers: list[Layer]) -> list[Layer]:
    """Give layers different names: a functional convolution has its module's, which may have been chosen too."""
    found: list[Layer] = []
    for layer in layers:
        name = unique(layer.name, {other.name for other in found})
        found.append(layer if name == layer.name else replace(layer, name=name))
    return found


def spread_over_depth(layers: list[Layer], most: int | None) -> list[Layer]:
    """At most ``most`` layers, evenly over depth, the first and the last among them."""
    if most is None or len(layers) <= most:
        return layers
    if most == 1:
        return layers[-1:]
    last = len(layers) - 1
    return [layers[round(i * last / (most - 1))] for i in range(most)]


def as_entries(spec: LayerSpec) -> list[LayerEntry]:
    """A layer specification as a list of entries, each checked as far as it can be without a network.

    Raises:
        ValueError: if there is no entry, or one that could never choose a layer.
    """
    if spec is None:
        return []
    several = isinstance(spec, Sequence | Set) and not isinstance(spec, str | bytes)
    entries: list[Any] = list(spec) if several else [spec]  # type: ignore[arg-type]
    for entry in entries:
        _check_entry(entry)
    if not entries:
        raise ValueError("layers is empty: leave it out to observe every conv unit, or name at least one layer")
    return entries


def _check_entry(entry: Any) -> None:
    if isinstance(entry, nn.Module):
        raise ValueError(
            f"layers: got a {type(entry).__name__} itself; give its name in named_modules(), or its class for all "
            "layers of that class"
        )
    if not (isinstance(entry, str | re.Pattern) or callable(entry)):
        raise ValueError(
            f"layers: cannot select by {entry!r}; give a glob or name, 're:<regular expression>', "
            "a module class, or a callable(name, module) -> bool"
        )
    if isinstance(entry, type) and not issubclass(entry, nn.Module):
        raise ValueError(
            f"layers: {entry.__name__} is not a module class; give a subclass of torch.nn.Module, as torch.nn.Conv2d, "
            f"or lambda name, module: isinstance(module, {entry.__name__})"
        )
    if isinstance(entry, re.Pattern) and isinstance(entry.pattern, bytes):
        raise ValueError(f"layers: {entry!r} is a pattern of bytes, but names are text; compile it from a str")
    if isinstance(entry, str):
        _check_pattern(entry)


def _check_pattern(entry: str) -> None:
    expression = entry[3:] if entry.startswith("re:") else fnmatch.translate(entry)
    try:
        re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"layers: {entry!r} is not a regular expression ({error}); give 're:' and one that re.compile takes, with "
            "a backslash before a literal bracket, parenthesis or dot, or a glob without 're:'"
        ) from error


def _matches(entry: LayerEntry, layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers if _matches_one(entry, layer)]


def _matches_one(entry: Any, layer: Layer) -> bool:
    name = layer.name
    if isinstance(entry, str) and entry.startswith("re:"):
        return re.search(entry[3:], name) is not None
    if isinstance(entry, str):
        return entry == name or fnmatch.fnmatchcase(name, entry)
    if isinstance(entry, re.Pattern):
        return entry.search(name) is not None
    if layer.module is None:
        return False
    if isinstance(entry, type):
        return isinstance(layer.module, entry)
    return _chosen_by(entry, layer)


def _chosen_by(entry: Any, layer: Layer) -> bool:
    try:
        return bool(entry(layer.name, layer.module))
    except Exception as error:
        raise ValueError(
            f"layers: {getattr(entry, '__name__', entry)!r} failed on layer {layer.name!r} ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); give a callable(name, module) -> bool for every module"
        ) from error


def _no_match(entry: Any, trace: Trace) -> list[Layer]:
    names = [layer.name for layer in trace.units() or trace.modules()]
    near = _nearest(str(entry), names)
    raise ValueError(
        f"layers: {entry!r} matches no layer that runs in evaluation mode. Nearest names: {', '.join(near)}. "
        "'convscope layers' lists them all"
    )


def _nearest(entry: str, names: list[str], most: int = 5) -> list[str]:
    """Names with the longest common beginning, since a mistyped entry mostly has the right prefix."""
    wanted = entry.removeprefix("re:").strip("*^$")

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, wanted, name[: len(wanted) + 1]).ratio()

    return sorted(names, key=likeness, reverse=True)[:most]


def _no_convolution(trace: Trace) -> list[Layer]:
    names = ", ".join(dict.fromkeys(layer.kind for layer in trace.modules())) or "none"
    raise ValueError(
        f"the network ran no convolution on the traced sample (modules that ran: {names}). "
        "Name what to observe, for example layers='*.mlp' or layers='blocks.*'"
    )
