"""Architectures by hand through a real fit, with every kind of callback."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.zoo import ZOO
from tests.callbacks.conftest import Classifier, fit  # noqa: F401
from tests.capture.test_axes import Grid

BY_HAND = [entry for entry in ZOO if not entry.package]


def both(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[DataLoader, DataLoader]:
    data = TensorDataset(inputs, labels)
    return DataLoader(data, 10), DataLoader(data, 10)


@pytest.mark.parametrize("entry", BY_HAND, ids=[entry.name for entry in BY_HAND])
def test_the_full_suite_measures_every_layer(fit: Any, entry: Any) -> None:  # noqa: F811
    labels = torch.arange(30) % 10
    callbacks = [convscope.LayerProbe(), convscope.FilterImportance(), convscope.FilterCorrelation()]
    callbacks += [convscope.AblationOracle(), convscope.FilterHealth()]
    run = fit(callbacks, Classifier(entry.build()), both(torch.randn(30, *entry.size), labels), max_epochs=1)
    assert run.curve("zz_convscope/errors")[-1][1] == 0
    tags = run.events.Tags()["scalars"]
    probed = [tag.removeprefix("probe/accuracy/") for tag in tags if tag.startswith("probe/accuracy/")]
    assert "output" in probed
    for family in ("importance/gini", "correlation/mean_abs", "health/activation_rms"):
        assert {f"{family}/{layer}" for layer in probed if layer != "output"} <= set(tags)


def test_frames_of_one_sample_count_as_positions(fit: Any) -> None:  # noqa: F811
    """The probe is given each sample's mean over frames, not one row per frame."""
    seen: list[torch.Tensor] = []

    class Probe(convscope.LayerProbe):
        def on_activation(self, record: Any) -> None:
            if record.layer.name == "net.cnn.2":
                seen.append(record.pooled.clone())
            super().on_activation(record)

    entry = next(entry for entry in ZOO if "GRU" in entry.name)
    net, inputs, labels = entry.build(), torch.randn(30, *entry.size), torch.arange(30) % 3
    with torch.no_grad():
        expected = net.cnn(inputs.flatten(0, 1)).view(30, 5, 8, 8, 8).mean((1, 3, 4))
    fit([Probe(every_n_epochs=9)], Classifier(net), both(inputs, labels), max_epochs=1)
    torch.testing.assert_close(torch.cat(seen[:1]), expected)


def test_a_layer_on_a_position_grid_is_noted_and_the_others_are_measured(fit: Any, caplog: Any) -> None:  # noqa: F811
    net = nn.Sequential(Grid(), nn.Flatten(), nn.Linear(6 * 4 * 8, 3))
    data = both(torch.randn(30, 6, 4, 8), torch.arange(30) % 3)
    run = fit(convscope.suite("standard"), Classifier(net), data, max_epochs=1)
    said = [m for m in caplog.messages if "net.0.position does not give the same number of rows for each sample" in m]
    assert len(said) == 1
    tags = run.events.Tags()["scalars"]
    assert {"probe/accuracy/net.0.image", "importance/gini/net.0.image"} <= set(tags)
    assert not any("net.0.position" in tag for tag in tags)
