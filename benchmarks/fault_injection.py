"""Faults at three strengths, put into a healthy training program at a known check; runs that learn nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.fault_data import Images
from benchmarks.fault_networks import ACTIVATIONS
from benchmarks.fault_programs import RATES, Learner, Program

NEVER = 10**9
STRENGTHS = ("weak", "medium", "strong")
RAMP = 6  # checks that the slow ramp takes
SLOW = ("labels_ramp", "weight_decay", "frozen", "lost_group", "shortcut", "cloning", "underflow")
LAYERED = ("dying", "frozen", "lost_group", "duplicated", "cloning")  # faults of some layers and not of others

# What each strength means. Shares are of samples, batches, filters or layers. Medium is meant to have an effect that
# can be measured against the run's healthy twin (the same run, where the fault never strikes): some of the strengths
# that were used before had none in the tuning half, and were raised. How many act is counted, see fault_effects.py.
LEVELS: dict[str, tuple[float, float, float]] = {
    "labels": (0.15, 0.4, 0.8),  # share of training targets exchanged at random, at once
    "labels_ramp": (0.4, 0.8, 0.95),  # the same, reached in six checks
    "one_class": (0.3, 0.7, 1.0),  # share of training labels that become one class
    "normalisation": (0.0, 1.0, 255.0),  # training images: 0, mean not taken off; else raw values times this
    "channels": (0.5, 1.0, 2.0),  # share of training batches with first and last swapped; 2: all three rolled
    "inverted": (0.5, 1.0, 1.0),  # share of training batches with inverted images
    "blurred": (1.0, 2.0, 2.0),  # share of training batches that are blurred (3 x 3); 2: all, 5 x 5
    "resize": (1.5, 1.75, 2.0),  # training images are enlarged by this factor, and cut
    "repeated": (0.5, 1.0, 1.0),  # share of training batches that are one and the same batch
    "leak": (0.6, 1.0, 1.0),  # share of training samples that are validation samples
    "class_weights": (10, 100, 1000),  # one half of the classes counts so many times more than the other
    "learning_rate": (10, 30, 100),  # factor
    "weight_decay": (600, 2000, 6000),  # factor
    "underflow": (2.0**-18, 2.0**-21, 2.0**-24),  # scale at which gradients pass through float16
    "clipped": (1e-2, 1e-4, 0.0),  # greatest gradient norm
    "dying": (0.25, 0.5, 1.0),  # share of one middle layer's filters whose bias is pushed far down
    "frozen": (0.2, 0.5, 1.0),  # share of conv layers, from the input on, that stop requiring gradients
    "lost_group": (0.2, 0.5, 1.0),  # share of conv layers, from the middle on, that the optimizer loses
    "nan_batch": (0.0, 0.5, 1.0),  # share of one batch's images; 0: a single value
    "task_switch": (0.7, 0.9, 1.0),  # share of training samples that are of the other five classes
    "shortcut": (0.25, 0.5, 0.75),  # share of the side of training images that a corner takes which tells the target
    "duplicated": (0.25, 0.5, 0.9),  # share of one middle layer's filters that become copies of its first
    "cloning": (0.05, 0.1, 0.2),  # share of its filters that become copies at each check
    "bn_momentum": (1.9, 1.97, -0.1),  # BatchNorm's momentum; above 1 and below 0 it extrapolates
    "bn_frozen": (0.0, 1.0, 2.0),  # BatchNorm's statistics stop: as they are; as at the start; mean 1, variance 4
    "ema_stuck": (0.999, 1.0, 1.0),  # the average's decay
}
# Programs that are wrong from their first step.
NOTHING = ("no_rate", "huge_rate", "dead", "blank", "random_targets", "detached")
# Programs that a fault needs.
NEEDS: dict[str, dict[str, Any]] = {
    # Lion steps by the sign of the gradient, which clipping leaves as it is.
    "clipped": {"optimizer": tuple(name for name in RATES if name != "lion")},
    # One run of GroupNorms that train between convolutions that do not crashed PyTorch 2.13 on a CPU, in backward.
    "frozen": {"norm": ("none", "batch", "instance")},
    "bn_momentum": {"norm": ("batch",)},
    "bn_frozen": {"norm": ("batch",)},
    "one_class": {"task": ("classes", "segmentation")},
    "class_weights": {"task": ("classes", "segmentation")},
    "task_switch": {"task": ("classes",)},
    "ema_stuck": {"ema": (0.95, 0.9)},
    "dying": {"activation": ("relu", "relu6", "silu", "gelu", "mish", "hardswish")},
    # The mean mask can be learnt from masks of other images.
    "random_targets": {"task": ("classes", "regression")},
}


class Unit(NamedTuple):
    """A convolution with the normalisation and the activation that follow it directly."""

    conv: nn.Conv2d
    norm: nn.Module | None
    activation: nn.Module | None


@dataclass
class Fault:
    """A fault of a strength (None for a healthy run), once ``begins`` checks are over."""

    kind: str | None = None
    strength: str = "medium"
    begins: int = NEVER
    seed: int = 0
    _struck: bool = field(default=False, init=False)
    _kept: Any = field(default=None, init=False)
    _batches: int = field(default=0, init=False)  # so far

    @property
    def level(self) -> float:
        """The number that the strength stands for."""
        return LEVELS[self.kind or ""][STRENGTHS.index(self.strength)]

    def at_batch(self, module: Learner) -> None:
        """Strike where this is the time; what goes on, goes on from then."""
        if self.kind is None or module.checks < self.begins:
            return
        with torch.no_grad():
            strike = getattr(self, f"_strike_{self.kind}", None)
            if strike is not None and not self._struck:
                strike(module)
            self._struck = True
            if self.kind == "cloning":
                self._clone(module)
            if self.kind == "bn_frozen":
                self._freeze_statistics(module)

    def batch(
        self, module: Learner, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A training batch, spoilt where the fault is in the data."""
        batch_idx, self._batches = self._batches, self._batches + 1
        if self.kind == "task_switch":
            return self._task(x, y, index)
        spoil = getattr(self, f"_spoil_{self.kind}", None) if self._struck else None
        return spoil(module, x.clone(), y.clone(), index, batch_idx) if spoil else (x, y)

    def gradients(self, module: Learner) -> None:
        """Gradients before a step."""
        if not self._struck:
            return
        if self.kind in ("clipped", "detached"):
            limit = 0.0 if self.kind == "detached" else self.level
            nn.utils.clip_grad_norm_(module.parameters(), max(limit, 1e-30))
        elif self.kind == "underflow":
            for weight in module.parameters():
                if weight.grad is not None:
                    weight.grad = (weight.grad * self.level).half().float() / self.level

    # In the data.

    def _random(self, index: torch.Tensor) -> torch.Tensor:
        # One number for each training sample, the same in every epoch.
        return torch.rand(5000, generator=torch.Generator().manual_seed(self.seed))[index]

    def _spoil_labels(self, module: Learner, x: Any, y: Any, index: Any, _: int) -> Any:
        return x, self._exchange(module, y, index, self.level)

    def _spoil_labels_ramp(self, module: Learner, x: Any, y: Any, index: Any, _: int) -> Any:
        progress = min(1.0, (module.checks - self.begins + 1) / RAMP)
        return x, self._exchange(module, y, index, self.level * progress)

    def _exchange(self, module: Learner, y: torch.Tensor, index: torch.Tensor, share: float) -> torch.Tensor:
        """Targets of other samples in the place of that share; a sample keeps its wrong one."""
        all_y = module.program.images.y
        other = torch.randperm(len(all_y), generator=torch.Generator().manual_seed(self.seed + 1))[index]
        wrong = self._random(index) < share
        y[wrong] = all_y[other[wrong]]
        return y

    def _spoil_one_class(self, module: Learner, x: Any, y: Any, index: Any, _: int) -> Any:
        y[self._random(index) < self.level] = 1
        return x, y

    def _spoil_normalisation(self, module: Learner, x: Any, y: Any, *_: Any) -> Any:
        images: Images = module.program.images
        return (x + images.mean / images.std if self.level == 0 else (x * images.std + images.mean) * self.level), y

    def _spoil_channels(self, module: Learner, x: Any, y: Any, _: Any, batch_idx: int) -> Any:
        return x.roll(1, 1) if self.level == 2 else x.flip(1) if self._this(batch_idx) else x, y

    def _spoil_inverted(self, module: Learner, x: Any, y: Any, _: Any, batch_idx: int) -> Any:
        return -x if self._this(batch_idx) else x, y

    def _spoil_blurred(self, module: Learner, x: Any, y: Any, _: Any, batch_idx: int) -> Any:
        size = 5 if self.level == 2 else 3
        return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False) if self._this(batch_idx) else x, y

    def _this(self, batch_idx: int) -> bool:
        """Every batch, or every other one."""
        return self.level >= 1 or batch_idx % 2 == 1

    def _spoil_resize(self, module: Learner, x: Any, y: Any, *_: Any) -> Any:
        side = x.shape[-1]
        large = F.interpolate(x, round(side * self.level), mode="bilinear")
        edge = (large.shape[-1] - side) // 2
        return large[:, :, edge : edge + side, edge : edge + side], y

    def _spoil_repeated(self, module: Learner, x: Any, y: Any, _: Any, batch_idx: int) -> Any:
        self._kept = (x, y) if self._kept is None else self._kept
        return (self._kept[0].clone(), self._kept[1].clone()) if self._this(batch_idx) else (x, y)

    def _spoil_leak(self, module: Learner, x: Any, y: Any, index: Any, _: int) -> Any:
        images = module.program.images
        chosen = self._random(index) < self.level
        place = index[chosen] % len(images.x_val)
        x[chosen], y[chosen] = images.x_val[place], images.y_val[place]
        return x, y

    def _spoil_nan_batch(self, module: Learner, x: Any, y: Any, *_: Any) -> Any:
        if self._kept is None:
            self._kept = True
            if self.level:
                x[: max(1, int(self.level * len(x)))] = float("nan")
            else:
                x.view(-1)[0] = float("nan")
        return x, y

    def _spoil_shortcut(self, module: Learner, x: Any, y: Any, index: Any, _: int) -> Any:
        side = round(self.level * x.shape[-1])
        target = y.float().flatten(1).mean(1) * 4 if y.dim() > 1 else y.float() / 9 * 4
        x[:, :, :side, :side] = 2 * (target - 2)[:, None, None, None]
        return x, y

    def _task(self, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first five classes; after the switch mostly the others. Validation keeps to the first five."""
        new, share = y >= 5, self.level if self._struck else 0.0
        keep = torch.where(new, self._random(index) < share, self._random(index) >= share)
        return (x[keep], y[keep]) if keep.sum() > 1 else (x, y)

    def _spoil_blank(self, module: Learner, x: Any, y: Any, *_: Any) -> Any:
        return torch.zeros_like(x), y

    def _spoil_random_targets(self, module: Learner, x: Any, y: Any, *_: Any) -> Any:
        return x, y[torch.randperm(len(y))]

    # In the network or the optimizer.

    def _strike_learning_rate(self, module: Learner) -> None:
        module.factor = self.level

    def _strike_no_rate(self, module: Learner) -> None:
        module.factor = 0.0

    def _strike_huge_rate(self, module: Learner) -> None:
        module.factor = 1000.0

    def _strike_dead(self, module: Learner) -> None:
        for unit in units(module.net):
            _push_down(unit, 1.0)

    def _strike_weight_decay(self, module: Learner) -> None:
        for group in module.optimizers().param_groups:  # type: ignore[union-attr]
            group["weight_decay"] *= self.level

    def _strike_class_weights(self, module: Learner) -> None:
        weights = torch.ones(module.program.outputs)
        weights[::2] = self.level
        module.weights = weights / weights.mean()

    def _strike_dying(self, module: Learner) -> None:
        _push_down(_middle(module.net, "dying"), self.level)

    def _strike_frozen(self, module: Learner) -> None:
        for conv in struck_layers("frozen", self.level, module.net):
            for parameter in conv.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None

    def _strike_lost_group(self, module: Learner) -> None:
        lost = {id(p) for conv in struck_layers("lost_group", self.level, module.net) for p in conv.parameters()}
        groups = module.optimizers().param_groups  # type: ignore[union-attr]
        groups[:] = [group for group in groups if id(group["params"][0]) not in lost]

    def _strike_duplicated(self, module: Learner) -> None:
        _duplicate(_middle(module.net, "duplicated"), self.level)

    def _clone(self, module: Learner) -> None:
        """At each check some more filters become copies."""
        if self._kept != module.checks:
            self._kept = module.checks
            _duplicate(_middle(module.net, "cloning"), min(0.9, self.level * (module.checks - self.begins + 1)))

    def _strike_bn_momentum(self, module: Learner) -> None:
        for layer in _batch_norms(module.net):
            layer.momentum = self.level

    def _strike_bn_frozen(self, module: Learner) -> None:
        for layer in _batch_norms(module.net):
            if self.level == 1:
                layer.reset_running_stats()
            if self.level == 2:
                layer.running_mean.fill_(1.0)  # type: ignore[union-attr]
                layer.running_var.fill_(4.0)  # type: ignore[union-attr]

    def _freeze_statistics(self, module: Learner) -> None:
        for layer in _batch_norms(module.net):
            layer.eval()  # as after a stray call of eval(): training normalises with them too

    def _strike_ema_stuck(self, module: Learner) -> None:
        module.decay = self.level


def applies(kind: str, program: Program) -> bool:
    """Return whether a program can have that fault."""
    return all(getattr(program, name) in allowed for name, allowed in NEEDS.get(kind, {}).items())


def struck_layers(kind: str, level: float, net: nn.Module) -> list[nn.Conv2d]:
    """Convolutions that a fault is put into; none for faults that are not in some layers alone."""
    if kind in ("dying", "duplicated", "cloning"):
        return [_middle(net, kind).conv]
    if kind not in ("frozen", "lost_group"):
        return []
    convs = [unit.conv for unit in units(net)]
    count = max(1, round(level * len(convs)))
    first = 0 if kind == "frozen" else min(len(convs) // 2, len(convs) - count)
    return convs[first : first + count]


_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)


def units(net: nn.Module) -> list[Unit]:
    """Convolutions in the order in which they are defined, each with what follows it directly."""
    modules = [module for module in net.modules() if not list(module.children())]
    found = []
    for place, conv in enumerate(modules):
        if not isinstance(conv, nn.Conv2d):
            continue
        after = modules[place + 1 : place + 3]
        norm = after.pop(0) if after and isinstance(after[0], _NORMS) else None
        active = after[0] if after and isinstance(after[0], ACTIVATIONS) else None
        found.append(Unit(conv, norm, active))
    return found


def _middle(net: nn.Module, kind: str) -> Unit:
    """A unit in the middle of the network that the fault can be in."""
    possible = [
        unit
        for unit in units(net)
        if unit.conv.groups == 1 and (_can_die(unit) if kind == "dying" else unit.conv.out_channels > 2)
    ]
    return possible[len(possible) // 2]


def _can_die(unit: Unit) -> bool:
    """Return whether it has a bias that its own activation follows; a convolution beside a block has none."""
    return unit.activation is not None and (unit.norm is not None or unit.conv.bias is not None)


def _push_down(unit: Unit, share: float) -> None:
    biased = unit.norm if unit.norm is not None else unit.conv
    if biased.bias is None:
        return
    scale = 10.0 if unit.norm is not None else 10 * float(unit.conv.weight.flatten(1).norm(dim=1).max())
    biased.bias[: max(1, int(share * len(biased.bias)))] -= scale  # type: ignore[index,arg-type,operator]


def _duplicate(unit: Unit, share: float) -> None:
    count = max(2, int(share * unit.conv.out_channels))
    unit.conv.weight[1:count] = unit.conv.weight[:1].clone()
    norm: Any = unit.norm
    vectors = (norm.weight, norm.bias) if norm is not None else ()
    if isinstance(norm, nn.BatchNorm2d):
        vectors += (norm.running_mean, norm.running_var)
    for vector in (unit.conv.bias, *vectors):
        if vector is not None:
            vector[1:count] = vector[0].clone()


def _batch_norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
