"""Observe every network of the zoo and compare with plain hooks: values, channels, order, gradients.

Run with ``python -m benchmarks.architectures > table.md``.
"""

from __future__ import annotations

from benchmarks.zoo import ZOO, Entry, declare_torchvision_operators

declare_torchvision_operators()

import importlib.util  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.measure import machine  # noqa: E402
from convscope.capture import HeldOut, Subject, observe, select_layers, trace_layers  # noqa: E402
from convscope.capture.network.modules import named_modules  # noqa: E402
from convscope.capture.network.trace import Layer  # noqa: E402
from convscope.capture.observation import Record  # noqa: E402
from convscope.capture.outputs.parts import logits_of  # noqa: E402

Tensors = dict[str, torch.Tensor]
SAMPLES = 3


@dataclass
class Examination:
    """Findings for one network. Every check is against plain forward hooks on the convolutions.

    Attributes:
        layers: Convolutions that ran on every sample; one on a position grid, the same for all samples, is left out.
        seconds: Of one observation with gradients.
        order: Names, in the order in which the convolutions run.
        channels: The second axis of each record has the convolution's number of filters, as does each unit.
        values: Raw activations are those of the hooks.
        gradients: Gradients are those of a full backward.
        untouched: Parameters, buffers, gradients, modes, hooks and the random stream are as before.
    """

    layers: int
    seconds: float
    order: bool
    channels: bool
    values: bool
    gradients: bool
    untouched: bool

    @property
    def passed(self) -> bool:
        return self.order and self.channels and self.values and self.gradients and self.untouched


class _Keeper:
    """Keeps activations and gradients of all layers."""

    needs_gradient = True
    takes_nonfinite = True

    def __init__(self) -> None:
        self.activations: Tensors = {}
        self.gradients: Tensors = {}

    def wants(self, layer: str) -> bool:
        return True

    def on_activation(self, record: Record) -> None:
        self.activations[record.layer.name] = record.activation.clone()

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        self.gradients[record.layer.name] = gradient.clone()


def examine(entry: Entry) -> Examination:
    """Build one network, observe it and compare."""
    torch.manual_seed(0)
    model = entry.build()
    inputs = torch.randn(SAMPLES, *entry.size)
    before = _state(model)
    heldout = HeldOut((inputs, torch.arange(SAMPLES)), size=SAMPLES, batch_size=SAMPLES)
    heldout.prepare()
    subject = Subject(model, model, torch.device("cpu"), loss=_loss)
    traced = trace_layers(subject, heldout)[0]
    raw, units = select_layers(traced, raw=True), select_layers(traced)
    began = time.perf_counter()
    seen, unit_seen = _Keeper(), _Keeper()
    observe(subject, heldout, raw, [seen])
    seconds = time.perf_counter() - began
    observe(subject, heldout, units, [unit_seen])
    untouched = _same(before, _state(model))
    expected, gradients = _by_hooks(model, inputs)
    order = [layer.name for layer in raw if layer.module is not None] == list(expected) == _heads(units)
    expected = {name: value for name, value in expected.items() if len(value) % SAMPLES == 0}
    raw, units = ([layer for layer in layers if layer.name in expected] for layers in (raw, units))
    return Examination(
        layers=len(raw),
        seconds=seconds,
        order=order,
        channels=_channels(raw, seen.activations) and _channels(units, unit_seen.activations),
        values=all(_close(seen.activations[name], _rows(value)) for name, value in expected.items()),
        gradients=_same_gradients(seen.gradients, {k: v for k, v in gradients.items() if k in expected}),
        untouched=untouched,
    )


def _heads(units: list[Layer]) -> list[str]:
    return [unit.name for unit in units if unit.module is not None]


def _loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(2).mean(2) if logits.dim() > 2 else logits, targets, reduction="sum")


def _channels(layers: list[Layer], activations: Tensors) -> bool:
    return all(
        layer.channels == layer.module.out_channels == activations[layer.name].shape[1]
        and len(activations[layer.name]) == SAMPLES
        for layer in layers
        if isinstance(layer.module, nn.modules.conv._ConvNd)
    )


def _by_hooks(model: nn.Module, inputs: torch.Tensor) -> tuple[Tensors, Tensors]:
    """Output of each convolution call in order, and the loss's gradient at it, by torch's own hooks alone.

    A zero that is added to each output has the same gradient as the output, whatever overwrites that later.
    """
    outputs: Tensors = {}
    zeros: Tensors = {}
    calls: Counter[str] = Counter()

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            calls[name] += 1
            key = name if calls[name] == 1 else f"{name}@{calls[name]}"
            outputs[key], zeros[key] = output.detach().clone(), torch.zeros_like(output).requires_grad_()
            return output + zeros[key]

        return hook

    model.eval()
    convs = [(name, m) for name, m in named_modules(model) if isinstance(m, nn.modules.conv._ConvNd)]
    handles = [module.register_forward_hook(hook_of(name)) for name, module in convs]
    loss = _loss(logits_of(model(inputs)), torch.arange(SAMPLES))
    found = torch.autograd.grad(loss, list(zeros.values()), allow_unused=True)
    for handle in handles:
        handle.remove()
    return outputs, {name: gradient for name, gradient in zip(zeros, found, strict=True) if gradient is not None}


def _same_gradients(ours: Tensors, theirs: Tensors) -> bool:
    return ours.keys() == theirs.keys() and all(_close(ours[name], _rows(theirs[name])) for name in theirs)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Frames that were folded into the batch become the third axis again."""
    return tensor if len(tensor) == SAMPLES else tensor.unflatten(0, (SAMPLES, -1)).movedim(1, 2)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-12)


def _state(model: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": [parameter.grad for parameter in model.parameters()],
        "requires": [parameter.requires_grad for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "random": torch.get_rng_state(),
    }


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, torch.Tensor):
        return torch.equal(torch.nan_to_num(before), torch.nan_to_num(after))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_same(before[key], after[key]) for key in before)
    if isinstance(before, list):
        return len(before) == len(after) and all(map(_same, before, after))
    return bool(before == after)


def main() -> None:
    """Print the table of all networks whose package is installed."""
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    print("| network | layers | channels | order | values | gradients | untouched | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for entry in ZOO:
        print(_row(entry), flush=True)


def _row(entry: Entry) -> str:
    if entry.package and importlib.util.find_spec(entry.package) is None:
        return f"| {entry.name} | {entry.package} is not installed |||||||"
    try:
        found = examine(entry)
    except Exception as error:
        return f"| {entry.name} | {type(error).__name__}: {str(error)[:100]} |||||||"
    checks = (found.channels, found.order, found.values, found.gradients, found.untouched)
    marks = " | ".join("yes" if check else "**no**" for check in checks)
    return f"| {entry.name} | {found.layers} | {marks} | {found.seconds:.2f} |"


if __name__ == "__main__":
    main()
