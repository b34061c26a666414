"""Fifteen faults, each at three strengths, put into a healthy training program at a known epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from benchmarks.fault_models import Classifier, load_images

STRENGTHS = ("weak", "medium", "strong")
RAMP = 6  # epochs that the slow ramp takes
SLOW = ("labels_ramp", "weight_decay", "frozen", "lost_group", "shortcut")

# What each strength means. Shares are of samples, filters or layers.
LEVELS: dict[str, tuple[float, float, float]] = {
    "labels": (0.15, 0.4, 0.8),  # share of training labels replaced at random, at once
    "labels_ramp": (0.3, 0.6, 0.9),  # the same, reached in six epochs
    "normalisation": (0.0, 1.0, 255.0),  # training images: 0, mean not taken off; else raw values times this
    "channels": (0.5, 1.0, 2.0),  # share of training batches with first and last swapped; 2: all three rolled
    "learning_rate": (10, 30, 100),  # factor
    "weight_decay": (300, 1000, 3000),  # factor
    "dying": (0.25, 0.5, 1.0),  # share of one middle layer's filters whose bias is pushed far down
    "frozen": (0.2, 0.5, 1.0),  # share of conv layers, from the input on, that stop requiring gradients
    "lost_group": (0.2, 0.5, 1.0),  # share of conv layers, from the middle on, that the optimizer loses
    "nan_batch": (0.0, 0.5, 1.0),  # share of one batch's images; 0: a single value
    "task_switch": (0.7, 0.9, 1.0),  # share of training samples that are of the other five classes
    "shortcut": (0.3, 0.7, 1.0),  # share of training images with a corner that tells the class
    "duplicated": (0.25, 0.5, 0.9),  # share of one middle layer's filters that become copies of its first
    "bn_momentum": (1.0, 1.9, -0.1),  # BatchNorm's momentum; above 1 and below 0 it extrapolates
    "clipped": (1e-2, 1e-4, 0.0),  # greatest gradient norm
}


@dataclass
class Fault:
    """A fault of a strength (None for a healthy run), from the start of epoch ``begins`` on."""

    kind: str | None = None
    strength: str = "medium"
    begins: int = 10**9
    seed: int = 0
    _active: bool = field(default=False, init=False)

    @property
    def level(self) -> float:
        """The number that the strength stands for."""
        return LEVELS[self.kind or ""][STRENGTHS.index(self.strength)]

    def at_epoch(self, module: Classifier) -> None:
        """Strike where this is the epoch."""
        if self.kind is None:
            return
        self._active = module.current_epoch >= self.begins
        strike = getattr(self, f"_strike_{self.kind}", None)
        if strike is not None and module.current_epoch == self.begins:
            with torch.no_grad():
                strike(module)

    def batch(
        self, module: Classifier, images: torch.Tensor, labels: torch.Tensor, index: torch.Tensor, batch_idx: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A training batch, spoilt where the fault is in the data."""
        if self.kind == "task_switch":
            return self._task(module, images, labels, index)
        spoil = getattr(self, f"_spoil_{self.kind}", None) if self._active else None
        return spoil(module, images.clone(), labels.clone(), index, batch_idx) if spoil else (images, labels)

    def gradients(self, module: Classifier) -> None:
        """Gradients before a step."""
        if self._active and self.kind == "clipped":
            nn.utils.clip_grad_norm_(module.parameters(), max(self.level, 1e-30))

    # In the data.

    def _random(self, index: torch.Tensor) -> torch.Tensor:
        # One number for each training sample, the same in every epoch.
        return torch.rand(5000, generator=torch.Generator().manual_seed(self.seed))[index]

    def _spoil_labels(self, module: Classifier, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor, _: int):  # type: ignore[no-untyped-def]
        return x, self._corrupt(y, index, self.level)

    def _spoil_labels_ramp(self, module: Classifier, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor, _: int):  # type: ignore[no-untyped-def]
        progress = min(1.0, (module.current_epoch - self.begins + 1) / RAMP)
        return x, self._corrupt(y, index, self.level * progress)

    def _corrupt(self, labels: torch.Tensor, index: torch.Tensor, share: float) -> torch.Tensor:
        wrong = torch.randint(0, 10, (5000,), generator=torch.Generator().manual_seed(self.seed + 1))[index]
        return torch.where(self._random(index) < share, wrong, labels)

    def _spoil_normalisation(self, module: Classifier, x: torch.Tensor, y: torch.Tensor, *_: object):  # type: ignore[no-untyped-def]
        images = load_images(module.config.data)
        return (x + images.mean / images.std if self.level == 0 else (x * images.std + images.mean) * self.level), y

    def _spoil_channels(self, module: Classifier, x: torch.Tensor, y: torch.Tensor, _: torch.Tensor, batch_idx: int):  # type: ignore[no-untyped-def]
        if self.level == 2:
            return x.roll(1, 1), y
        return (x.flip(1) if self.level == 1 or batch_idx % 2 else x), y

    def _spoil_nan_batch(self, module: Classifier, x: torch.Tensor, y: torch.Tensor, _: torch.Tensor, batch_idx: int):  # type: ignore[no-untyped-def]
        if batch_idx == 0 and module.current_epoch == self.begins:
            x[: max(1, int(self.level * len(x)))] = float("nan")
        return x, y

    def _spoil_shortcut(self, module: Classifier, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor, _: int):  # type: ignore[no-untyped-def]
        told = self._random(index) < self.level
        value = (y.float() / 9 * 4 - 2)[:, None, None, None].expand(-1, 3, 2, 2)
        x[:, :, :2, :2] = torch.where(told[:, None, None, None], value, x[:, :, :2, :2])
        return x, y

    def _task(self, module: Classifier, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor):  # type: ignore[no-untyped-def]
        """The first five classes; after the switch mostly the others. Validation keeps to the first five."""
        new, share = y >= 5, self.level if self._active else 0.0
        keep = torch.where(new, self._random(index) < share, self._random(index) >= share)
        return (x[keep], y[keep]) if keep.sum() > 1 else (x, y)

    # In the network or the optimizer, once.

    def _strike_learning_rate(self, module: Classifier) -> None:
        module.factor = self.level

    def _strike_weight_decay(self, module: Classifier) -> None:
        for group in module.optimizers().param_groups:  # type: ignore[union-attr]
            group["weight_decay"] *= self.level

    def _strike_dying(self, module: Classifier) -> None:
        conv, norm = _middle(module.net)
        biased = norm if norm is not None else conv
        scale = 10.0 if norm is not None else 10 * float(conv.weight.flatten(1).norm(dim=1).max())
        assert biased.bias is not None
        biased.bias[: max(1, int(self.level * len(biased.bias)))] -= scale

    def _strike_frozen(self, module: Classifier) -> None:
        for conv in struck_layers("frozen", self.level, module.net):
            for parameter in conv.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None

    def _strike_lost_group(self, module: Classifier) -> None:
        lost = {id(p) for conv in struck_layers("lost_group", self.level, module.net) for p in conv.parameters()}
        groups = module.optimizers().param_groups  # type: ignore[union-attr]
        groups[:] = [group for group in groups if id(group["params"][0]) not in lost]

    def _strike_duplicated(self, module: Classifier) -> None:
        conv, norm = _middle(module.net)
        count = max(2, int(self.level * conv.out_channels))
        conv.weight[1:count] = conv.weight[:1]
        for vector in (conv.bias, *((norm.weight, norm.bias, norm.running_mean, norm.running_var) if norm else ())):
            if vector is not None:
                vector[1:count] = vector[0].clone()

    def _strike_bn_momentum(self, module: Classifier) -> None:
        for layer in module.net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = self.level


def struck_layers(kind: str, level: float, net: nn.Module) -> list[nn.Conv2d]:
    """Convolutions that a fault is put into; none for faults that are not in some layers alone."""
    if kind in ("dying", "duplicated"):
        return [_middle(net)[0]]
    if kind not in ("frozen", "lost_group"):
        return []
    convs = _convs(net)
    count = max(1, round(level * len(convs)))
    first = 0 if kind == "frozen" else min(len(convs) // 2, len(convs) - count)
    return convs[first : first + count]


def _convs(net: nn.Module) -> list[nn.Conv2d]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


def _middle(net: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """A middle conv of kernel 3 and the BatchNorm that follows it."""
    modules = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    places = [i for i, m in enumerate(modules) if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    place = places[len(places) // 2]
    after = modules[place + 1] if place + 1 < len(modules) else None
    conv = modules[place]
    assert isinstance(conv, nn.Conv2d)
    return conv, after if isinstance(after, nn.BatchNorm2d) else None
