"""Names of layers: those of ``named_modules()``, made different where two operations would share one."""

from __future__ import annotations

from collections.abc import Iterable

from convscope.capture.network.follower import Event


def layer_names(heads: Iterable[Event]) -> list[str]:
    """Names of layers' first operations, all different.

    A module has its own name, a functional convolution that of the module it runs in, or at the top level its own. From
    the second call on, ``@`` and the call's number follow. Where a module runs different functional convolutions, each
    adds its own name: ``block.conv1d``, ``block.conv2d``, ``block.conv2d@2``. A user's own name is never changed.
    """
    heads = list(heads)
    names = [_name(head, heads) for head in heads]
    taken = {name for name, head in zip(names, heads, strict=True) if _is_real(head)}
    for place, head in enumerate(heads):
        if not _is_real(head):
            names[place] = unique(names[place], taken)
            taken.add(names[place])
    return names


def unique(name: str, taken: Iterable[str]) -> str:
    """``name`` itself, or if that is taken, the first of ``name@2``, ``name@3``, … that is not."""
    others, number, found = set(taken), 1, name
    while found in others:
        number += 1
        found = f"{name}@{number}"
    return found


def _is_real(head: Event) -> bool:
    """Return whether the name is one of the user's: a module's first call."""
    return head.module is not None and head.key.call == 1


def _operations(heads: list[Event], owner: str) -> set[str]:
    return {head.key.operation for head in heads if head.module is None and head.key.owner == owner}


def _name(head: Event, heads: list[Event]) -> str:
    owner, operation, call = head.key
    name = owner or operation
    if head.module is None and owner and len(_operations(heads, owner)) > 1:
        name = f"{owner}.{operation}"
    return name if call == 1 else f"{name}@{call}"
