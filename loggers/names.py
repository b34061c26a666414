"""Layer names made short enough to print, with the ends that distinguish them."""

from collections.abc import Sequence

ELLIPSIS = "…"


def shorten_middle(name: str, limit: int) -> str:
    """Cut out the middle of `name`, so that at most `limit` characters stay.

    The end of a layer's name (`…2.conv1`) tells more than its start, so it gets the larger half.

    Args:
        name: any text, usually a layer's name from `named_modules()`.
        limit: the greatest length wanted, at least 3.

    Raises:
        ValueError: if `limit` is too small for both ends.

    >>> shorten_middle("backbone.layer2.0.conv1", 15)
    'backbon…0.conv1'
    >>> shorten_middle("layer2.0.conv1", 15)
    'layer2.0.conv1'
    """
    if limit < 3:
        raise ValueError(f"limit must be at least 3 (a character, '{ELLIPSIS}', a character), got {limit}")
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    tail = limit - 1 - head
    return f"{name[:head]}{ELLIPSIS}{name[-tail:]}"


def short_labels(names: Sequence[str], limit: int) -> list[str]:
    """Labels of at most `limit` characters that still distinguish different layers.

    Names are cut in the middle; where two different ones would then look the same, every label starts with
    its place in depth order, counted from 1.

    Args:
        names: layer names in depth order.
        limit: the greatest length wanted, at least 8.

    Raises:
        ValueError: if `limit` is below 8.

    >>> short_labels(["layer1.0.conv1", "layer1.0.conv2"], 12)
    ['layer….conv1', 'layer….conv2']
    >>> short_labels(["net.stage1.block.conv", "net.stage2.block.conv"], 12)
    ['1 net.….conv', '2 net.….conv']
    """
    if limit < 8:
        raise ValueError(f"limit must be at least 8 (a number and both ends of a name), got {limit}")
    labels = [shorten_middle(name, limit) for name in names]
    if len(set(labels)) == len(set(names)):
        return labels
    digits = len(str(len(names)))
    width = max(3, limit - digits - 1)
    return [f"{place:>{digits}} {shorten_middle(name, width)}" for place, name in enumerate(names, start=1)]
