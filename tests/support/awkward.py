"""Networks that are hard on whoever replaces an activation: each takes ``(n, 3, 8, 8)`` and ablates at ``layer``.

None mixes samples: what a sample comes out as does not depend on the batch, though intermediate tensors may.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 4  # also a number of samples, of classes and of rows of tables in the tests


class Base(nn.Module):
    """A stem, then the convolution that is ablated, then what a subclass makes of it."""

    layer = "conv"

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> Any:
        return self.after(self.conv(torch.relu(self.stem(x))))

    def after(self, x: torch.Tensor) -> Any:
        return self.head(torch.relu(x).mean((2, 3)))


class CosineHead(Base):
    def after(self, x: torch.Tensor) -> torch.Tensor:
        return 5 * F.linear(F.normalize(torch.relu(x).mean((2, 3))), F.normalize(self.head.weight))


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class WeightStandardisation(Base):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = Standardised(3, WIDTH, 3, padding=1), Standardised(WIDTH, WIDTH, 3, padding=1)
        self.last = Standardised(WIDTH, WIDTH, 3, padding=1)

    def after(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(torch.relu(x)).mean((2, 3)))


class SpectralNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(self.conv)
        self.head = nn.utils.parametrizations.spectral_norm(self.head)


class MemoryBank(Base):
    """Attention of each sample over a bank that has as many rows as some chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.randn(7, WIDTH))

    def after(self, x: torch.Tensor) -> torch.Tensor:
        query, bank = torch.relu(x).mean((2, 3)), self.bank * 2
        return self.head((query @ bank.T).softmax(1) @ bank)


class PositionTable(Base):
    """Tokens with a table of positions whose first size is that of some chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, WIDTH))
        self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def after(self, x: torch.Tensor) -> torch.Tensor:
        tokens = F.adaptive_avg_pool2d(x, 4).flatten(2).transpose(1, 2) + self.table.tanh()
        return self.head(self.mix(tokens, tokens, tokens)[0].mean(1))


class TokensFirst(PositionTable):
    """The same with the positions where others have the samples."""

    def after(self, x: torch.Tensor) -> torch.Tensor:
        tokens = F.adaptive_avg_pool2d(x, 4).flatten(2).permute(2, 0, 1) + self.table[:, None]
        return self.head(tokens.tanh().mean(0))


class DynamicFilters(Base):
    """Each sample's own filters, made from the input, as one grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(3, WIDTH * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filters = self.maker(x.mean((2, 3))).view(-1, WIDTH, 1, 1)
        y = self.conv(torch.relu(self.stem(x)))
        samples = len(y)
        y = F.conv2d(y.reshape(1, -1, 8, 8), filters, groups=samples).view(samples, WIDTH, 8, 8)
        return self.after(y)


class Hyper(Base):
    """Read-out weights made from the image, before the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(3, WIDTH * 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.maker(x.mean((2, 3))).unflatten(1, (5, WIDTH))
        return torch.bmm(weights, torch.relu(self.conv(self.stem(x))).mean((2, 3))[..., None])[..., 0]


class SqueezeExcite(Base):
    def after(self, x: torch.Tensor) -> torch.Tensor:
        return super().after(x * torch.sigmoid(self.head(x.mean((2, 3))))[..., None, None])


class Constants(Base):
    """Tensors that are made in the forward, from the number of samples or of channels."""

    def after(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x).mean((2, 3))
        x = torch.eye(len(x)) @ x + torch.tensor([0.1, 0.2, 0.3, 0.4])
        x = x[torch.arange(len(x))] @ (torch.eye(WIDTH) + torch.ones(WIDTH, WIDTH))
        return self.head(torch.einsum("nc,cd->nd", x, self.head.weight.softmax(0)))


class Bilinear(Base):
    def after(self, x: torch.Tensor) -> torch.Tensor:
        gram = torch.einsum("nchw,ndhw->ncd", x, x) / 64
        return torch.einsum("ncd,kd->nck", gram, self.head.weight).mean(1)


class TestTimeViews(Base):
    """Both views in one batch, view by view."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([x, x.flip(-1)])).unflatten(0, (2, -1)).mean(0)


class TestTimeCalls(Base):
    """The views one after the other: the layer is the first of two calls."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + super().forward(x.flip(-1))


class Recycled(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(self.stem(x)))
        return self.after(self.conv(x) + x)


class WritesBack(Base):
    """Adds the layer to an older tensor in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x.add_(torch.relu(self.conv(x)))
        return self.after(x)


class WritesIntoView(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        half = x[:, :2]
        y = self.conv(x)
        half += y[:, 2:]
        return self.after(x + y)


class WritesThroughData(Base):
    """A write that bumps no version."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.conv(x)
        x.data.mul_(0.5)
        return self.after(x + y)


class WritesIntoInput(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sub_(0.3).div_(0.7)
        return super().forward(x)


class WritesIntoBuffer(Base):
    """Carries a state from pass to pass, which every pass must find as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x) * self.scale.view(-1, 1, 1)
        self.scale.mul_(1.5)
        return self.after(self.conv(x) * self.scale.view(-1, 1, 1))


class InPlaceDiscarded(Base):
    def after(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 1.5
        F.relu_(x)
        return super().after(x)


class Dense(Base):
    """A list that grows, handed to cat as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.stem(x)]
        found.append(torch.relu(torch.stack(found).sum(0)))
        found.append(self.conv(torch.stack(found).sum(0)))
        return self.after(torch.cat(found[1:], 1).unflatten(1, (2, WIDTH)).sum(1))


@torch.jit.script
def clipped_in_place(x: torch.Tensor) -> torch.Tensor:
    x.clamp_(-0.5, 0.5)
    return x * 2


class Scripted(Base):
    """Parts that no torch function tells of, before and after the layer; the first writes into what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(clipped_in_place(self.conv(clipped_in_place(self.stem(x)))))


class Doubles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


class OwnFunction(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(Doubles.apply(self.conv(Doubles.apply(self.stem(x)))))


class Vectorised(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.func.vmap(lambda image: image / (1 + image.abs().mean()))(self.stem(x))
        return torch.func.vmap(self.head)(torch.relu(self.conv(x)).mean((2, 3)))


class ThroughNumpy(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.from_numpy(self.stem(x).numpy().clip(-0.5, 0.5))
        return self.after(torch.from_numpy(self.conv(x).numpy() * 2))


class Loops(Base):
    """Rows taken one by one, and Python numbers in between."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.stack([row * (1 + row.max().item()) for row in self.stem(x)])
        weights = [sum(row) for row in x.mean((2, 3)).tolist()]
        return self.after(self.conv(x) * torch.tensor(weights).view(-1, 1, 1, 1))


class TurnsGradientsOn(Base):
    """Takes a gradient in the forward, over operations before and after the layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = self.stem(x).requires_grad_() if not self.stem.weight.requires_grad else self.stem(x)
            y = torch.relu(self.conv(x)).mean((2, 3))
            (slope,) = torch.autograd.grad(y.square().sum(), x)
        with torch.no_grad():
            return self.head(y + slope.mean((2, 3)))


class ReturnsTuple(Base):
    layer = "pair"

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(self.conv)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y, scale = self.pair(self.stem(x))
        return {"aux": scale, "logits": self.after(y) * scale}


class Pair(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.inner = conv

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        return self.inner(x) + 1, 2.0


class BatchStatistics(Base):
    """A norm that its owner always runs with the batch's statistics, over positions alone."""

    def after(self, x: torch.Tensor) -> torch.Tensor:
        return super().after(F.instance_norm(x))


class Drops(Base):
    """Dropout that is never off, before and after the layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(F.dropout(self.conv(F.dropout(torch.relu(self.stem(x)), 0.3)), 0.3))


class OwnGenerator(Base):
    """Noise from a generator of the module's own, before and after the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.source = torch.Generator().manual_seed(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x)) + torch.rand(1, generator=self.source)
        return self.after(self.conv(x) + torch.rand(1, generator=self.source))


DETERMINISTIC: list[type[Base]] = [
    Base, CosineHead, WeightStandardisation, SpectralNorm, MemoryBank, PositionTable, TokensFirst, DynamicFilters,
    Hyper, SqueezeExcite, Constants, Bilinear, TestTimeViews, TestTimeCalls, Recycled, WritesBack, WritesIntoView,
    WritesThroughData, WritesIntoInput, WritesIntoBuffer, InPlaceDiscarded, Dense, Scripted, OwnFunction, Vectorised,
    ThroughNumpy, Loops, TurnsGradientsOn, ReturnsTuple, BatchStatistics,
]  # fmt: skip
"""Networks without chance, whose samples do not mix."""
