"""Networks that put several rows of a sample into the batch, and some that mix the samples up."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

C, K = 4, 3


class Body(nn.Module):
    """Two units and a head; ``dead`` silences the second unit, as a residual branch that begins at zero."""

    def __init__(self, channels: int = 3, dead: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, C, 3, padding=1)
        self.conv2, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.head = nn.Linear(C, K)
        if dead:
            nn.init.zeros_(self.conv2.weight)
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x))
        return self.head(torch.relu(self.norm(self.conv2(x))).mean((2, 3)))


class Folding(nn.Module):
    """``rows`` into the body, ``merge`` out of it."""

    def __init__(
        self, rows: Callable[[torch.Tensor], torch.Tensor], merge: Callable[[torch.Tensor, int], torch.Tensor],
        body: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.rows, self.merge, self.body = rows, merge, body or Body()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.merge(self.body(self.rows(x)), len(x))


def blockwise(logits: torch.Tensor, samples: int) -> torch.Tensor:
    """Mean over views that lie in blocks of all samples."""
    return logits.unflatten(0, (-1, samples)).mean(0)


def side_by_side(logits: torch.Tensor, samples: int) -> torch.Tensor:
    """Mean over views of a sample that lie side by side."""
    return logits.unflatten(0, (samples, -1)).mean(1)


def tiles(x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h // 2, w // 2)


def flipped_tiles(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([tiles(x), tiles(x.flip(-1))])


# Name, rows, merge, the view v of sample i as it lies in (outer, n, inner).
FOLDS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[..., torch.Tensor], tuple[int, int]]] = {
    "augmentation": (lambda x: torch.cat([x, x.flip(-1)]), blockwise, (2, 1)),
    "three views": (lambda x: torch.cat([x, x.flip(-1), x.flip(-2)]), blockwise, (3, 1)),
    "repeated": (lambda x: x.repeat(4, 1, 1, 1) * 2, blockwise, (4, 1)),
    "stacked": (lambda x: torch.stack([x, x.flip(-1)], 1).flatten(0, 1), side_by_side, (1, 2)),
    "interleaved": (lambda x: x.repeat_interleave(3, 0), side_by_side, (1, 3)),
    "time first": (lambda x: x.unsqueeze(1).unfold(3, 4, 2).permute(3, 0, 1, 2, 4, 5).flatten(0, 1)[:, 0].movedim(-1, 1)
                   .reshape(-1, 3, 4, 8), blockwise, (3, 1)),
    "tiles": (tiles, side_by_side, (1, 4)),
    "tiles and flips": (flipped_tiles, lambda z, n: z.unflatten(0, (2, n, 4)).mean((0, 2)), (2, 4)),
    "channels": (lambda x: x.reshape(-1, 1, *x.shape[2:]).expand(-1, 3, -1, -1), side_by_side, (1, 3)),
    "channels first": (lambda x: x.transpose(0, 1).flatten(0, 1)[:, None].expand(-1, 3, -1, -1), blockwise, (3, 1)),
    "one row": (lambda x: x, lambda z, n: z, (1, 1)),
}  # fmt: skip


class Mixing(nn.Module):
    """Something happens to the rows between two convolutions."""

    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor], after: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.conv2, self.mix = nn.Conv2d(3, C, 1), nn.Conv2d(C, C, 1), mix
        self.after = after or nn.Identity()
        self.head = nn.Linear(C, K)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(self.conv2(self.mix(F.relu(self.conv1(x))))).mean((2, 3)))
