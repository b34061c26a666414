"""Layer names made short enough to print, with the ends that distinguish them."""

import re
from collections.abc import Iterator, Sequence

ELLIPSIS = "…"
_BREAK = re.compile(r"[._]")


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


def shorten_name(name: str, limit: int) -> str:
    """Leave whole words out of a layer's name, so that at most `limit` characters stay.

    Words are what points and underscores divide. The last ones tell most; the first is kept where there is space. A
    word that is too long by itself is cut in the middle.

    >>> shorten_name("backbone.layer1.0.conv1", 18), shorten_name("features.denseblock1.denselayer12.conv2", 24)
    ('…layer1.0.conv1', '…denselayer12.conv2')
    >>> shorten_name("encoder.stages.2.blocks.1.conv", 22)
    'encoder…blocks.1.conv'
    """
    if len(name) <= limit:
        return name
    starts = [0, *(match.end() for match in _BREAK.finditer(name) if match.end() < len(name))]
    ends = [match.start() for match in _BREAK.finditer(name)][:1]
    head = name[: ends[0]] if ends else ""
    for before in (head, ""):
        fitting = [start for start in starts[1:] if len(before) + 1 + len(name) - start <= limit]
        # With the first word, at least two of the last ones; else those say more.
        if fitting and (before == "" or fitting[0] <= starts[max(1, len(starts) - 3)]):
            return f"{before}{ELLIPSIS}{name[fitting[0] :]}"
    return shorten_middle(name, limit)


def short_labels(names: Sequence[str], limit: int) -> list[str]:
    """Labels of at most `limit` characters that still distinguish different layers.

    Words that all names begin with are left out first, then words in the middle of a name; where two different names
    would then look the same, every label starts with its place in depth order, counted from 1.

    Args:
        names: layer names in depth order.
        limit: the greatest length wanted, at least 8.

    Raises:
        ValueError: if `limit` is below 8.

    >>> short_labels(["backbone.layer1.0.conv1", "backbone.layer1.0.conv2", "output"], 16)
    ['…layer1.0.conv1', '…layer1.0.conv2', 'output']
    >>> short_labels(["net.stage1.block.conv", "net.stage2.block.conv"], 16)
    ['…stage1.block…', '…stage2.block…']
    """
    if limit < 8:
        raise ValueError(f"limit must be at least 8 (a number and both ends of a name), got {limit}")
    candidates = list(_without_shared_words(names))
    for labels in candidates:
        if all(len(label) <= limit for label in labels):
            return labels
    for labels in candidates[::-1]:
        labels = [shorten_name(label, limit) for label in labels]
        if len(set(labels)) == len(set(names)):
            return labels
    digits = len(str(len(names)))
    width = max(3, limit - digits - 1)
    return [f"{place:>{digits}} {shorten_name(name, width)}" for place, name in enumerate(names, start=1)]


def _without_shared_words(names: Sequence[str]) -> Iterator[list[str]]:
    """The names unchanged, then without one, two, … of the words that all names of several words begin, then end with.

    A name of one word, such as ``output``, stays.
    """
    yield list(names)
    words = [name.split(".") for name in names]
    several = [each for each in words if len(each) > 1]
    if len(several) < 2:
        return
    room = min(map(len, several)) - 1  # at least a word is kept
    first = _shared(several, room)
    last = _shared([each[::-1] for each in several], room - first)
    for start, stop in [*((n, 0) for n in range(1, first + 1)), *((first, n) for n in range(1, last + 1))]:
        cut = [each[start : len(each) - stop] if len(each) > 1 else each for each in words]
        yield [
            ".".join(kept) if len(each) == 1 else ELLIPSIS * (start > 0) + ".".join(kept) + ELLIPSIS * (stop > 0)
            for each, kept in zip(words, cut, strict=True)
        ]


def _shared(words: Sequence[Sequence[str]], most: int) -> int:
    """Number of words that all begin with."""
    return next((n for n in range(most) if len({each[n] for each in words}) > 1), most)
