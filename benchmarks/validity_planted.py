"""Networks with planted facts: what the numbers must say is known by construction."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from convscope.callbacks.ablation import CHEAP
from convscope.callbacks.parts.criteria import Criteria
from convscope.capture import HeldOut, Layer, Record, Subject, forward_from_layer, observe, select_layers, trace_layers
from convscope.capture.network.trace import output_layer
from convscope.capture.outputs.settling import settle
from convscope.metrics import ChannelCorrelation, OutputReadout, RidgeProbe
from convscope.metrics.functional import calibrated_readout, decision_depth


class _Watch:
    """One pass over a network, without a trainer."""

    def __init__(self, net: nn.Module, x: torch.Tensor, y: torch.Tensor, on: Any, gradient: Any = None) -> None:
        self._on, self._gradient = on, gradient
        heldout = HeldOut((x, y), size=len(x), stratify=False)
        heldout.prepare()
        subject = Subject(net.eval(), net, torch.device("cpu"))
        settle(subject, heldout)
        found, logits = trace_layers(subject, heldout)
        self.layers: list[Layer] = [*select_layers(found), output_layer(logits)]
        self.run = lambda: observe(subject, heldout, self.layers, [self])

    @property
    def needs_gradient(self) -> bool:
        return self._gradient is not None

    def wants(self, layer: str) -> bool:
        return True

    def on_activation(self, record: Record) -> None:
        self._on(record)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        self._gradient(record, gradient)


class _CarriesAClass(nn.Module):
    """Eight filters, of which number 3 alone sees what makes class 1; the head hardly listens to the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(2, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 2)
        with torch.no_grad():
            self.conv.weight.mul_(0.1)
            self.conv.weight[:, 0] = 0
            self.conv.weight[3] = torch.tensor([2.0, 0.0]).view(2, 1, 1)
            self.conv.bias.fill_(0.02)
            self.bn.weight.fill_(0.1)
            self.bn.weight[3] = 1.0
            self.head.weight.mul_(1e-3)
            self.head.weight[:, 3] = torch.tensor([-4.0, 4.0])
            self.head.bias.copy_(torch.tensor([3.0, -3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def filter_that_carries_a_class(seed: int) -> dict[str, Any]:
    """Rank of the planted filter under every criterion, and recall of its class with and without it."""
    torch.manual_seed(seed)
    y = (torch.rand(200) < 0.3).long()
    x = 0.5 * torch.rand(200, 2, 6, 6)
    x[:, 0] = 0
    x[y == 1, 0] = 1
    net = _CarriesAClass()
    criteria = Criteria(CHEAP)
    watch = _Watch(net, x, y, criteria.on_activation, criteria.on_gradient)
    criteria.begin(watch.layers, len(x))
    watch.run()
    ranks = {n: int((v > v[3]).sum()) + 1 for n, v in criteria.values(watch.layers[0]).items()}
    keep = ~torch.eye(8, dtype=torch.bool)
    hits = forward_from_layer(net, x, "conv", keep).argmax(2) == y
    recall = [float(hits[row][y == 1].float().mean()) for row in range(8)]
    before = float((net(x).argmax(1) == y)[y == 1].float().mean())
    others = min(recall[:3] + recall[4:])
    return {"ranks": ranks, "recall_before": before, "recall_without": recall[3], "recall_without_another": others}


def duplicates_and_dead(seed: int) -> dict[str, Any]:
    """Redundant pairs, and filters that never fire, counted in a layer where their number is known."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(3, 10, 3)
    with torch.no_grad():
        conv.weight[1] = conv.weight[0]
        conv.weight[3] = 2 * conv.weight[2]
        conv.bias[[0, 1, 2, 3]] = 0  # so that a doubled filter stays doubled behind the activation
        conv.bias[[8, 9]] = -100
    metric = ChannelCorrelation(10, redundant_threshold=0.999)
    metric.update(torch.relu(conv(torch.randn(64, 3, 8, 8))).detach())
    found = metric.compute()
    pairs = round(float(found.redundant_share) * 8 * 7 / 2)
    return {"redundant_pairs": pairs, "constant": int(found.constant), "rho": float(found.matrix[0, 1])}


def layer_that_destroys(seed: int) -> dict[str, Any]:
    """Probe accuracy by layer, and decision depth, where the third of five layers lets nothing through."""
    torch.manual_seed(seed)
    data = load_digits()
    x, y = torch.tensor(data.images / 16, dtype=torch.float32)[:600, None], torch.tensor(data.target)[:600]
    x = torch.cat([x, torch.rand_like(x)], 1)  # a second channel of noise, all that the third layer reads
    units = [nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)]
    units += [nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)]
    with torch.no_grad():
        for conv in units[:2]:
            conv.weight[0] = 0
            conv.bias[0] = 0
        units[0].weight[0, 1, 1, 1] = units[1].weight[0, 0, 1, 1] = 1  # filter 0 passes the noise on
        units[0].weight[1:, 1] = units[1].weight[1:, 0] = 0
        units[2].weight[:, 1:] = 0
    layers: list[nn.Module] = [part for conv in units for part in (conv, nn.ReLU())]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    probes: dict[str, Any] = {}

    def on(record: Record) -> None:
        make = OutputReadout if record.layer.name == "output" else RidgeProbe
        probes.setdefault(record.layer.name, make()).update(record.pooled, record.targets, record.index)

    _Watch(net, x, y, on).run()
    results = {name: probe.compute() for name, probe in probes.items()}
    said = [calibrated_readout(r.scores, r.target).argmax(1) for n, r in results.items() if n != "output"]
    depth = decision_depth(torch.stack([*said, results["output"].scores.argmax(1)])) + 1
    accuracy = [float(result.accuracy) for result in results.values()]
    return {
        "accuracy": accuracy,
        "chance": float(results["output"].chance),
        "past": float((depth >= 3).double().mean()),
    }
