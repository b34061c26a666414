"""Rows of pictures of an explainer: its part filters, each above the layer's own filter most like it."""

from __future__ import annotations

import torch

from convscope.callbacks.parts.example_images import ExampleImages
from convscope.callbacks.parts.explaining import Split, likest
from convscope.loggers.filter_grid import FilterRow
from convscope.metrics.functional import part_maps, part_scores

_IMAGES = 4


def part_rows(
    parts: torch.Tensor, original: torch.Tensor, split: Split, examples: ExampleImages, most: int
) -> list[FilterRow]:
    """The most part-like of the explainer's filters, and below each the layer's own filter that is most like it.

    Both are shown on the images that excite the part filter most, of those that it was not trained on.

    Args:
        parts: ``(N, F, H, W)`` maps of the explainer's part filters.
        original: ``(N, C, H, W)`` of the layer's own filters.
        split: Which samples these are.
        examples: The images; a process shows its own.
        most: Number of part filters.
    """
    rows = split.judged.to(parts.device)
    numbers, parts, original = split.numbers[split.judged], parts[rows].cpu(), original[rows].cpu().clamp(min=0)
    loss = part_scores(part_maps(parts), "total").filter_loss
    own, drawn = likest(parts, original), []
    for one in loss.argsort(stable=True)[:most].tolist():
        best = parts[:, one].flatten(1).amax(1).argsort(descending=True, stable=True)[:_IMAGES].tolist()
        drawn.append(_row(f"part {one}", "explainer", parts[:, one], best, numbers, examples))
        drawn.append(_row(f"filter {own[one]}", "most like it", original[:, own[one]], best, numbers, examples))
    return [row for row in drawn if row.examples]


def _row(
    label: str, note: str, maps: torch.Tensor, best: list[int], numbers: torch.Tensor, examples: ExampleImages
) -> FilterRow:
    pictures = [(examples.picture(int(numbers[row])), maps[row].double().numpy()) for row in best]
    return FilterRow(label, note, [(picture, found) for picture, found in pictures if picture is not None])
