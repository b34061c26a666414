"""``Metric.plot`` of every metric: what torchmetrics' own draw, and vectors and matrices besides."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest
import torch

import convscope.metrics as metrics
from tests.support.metric_cases import CASES
from tests.support.metric_laws import draw

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def fed(name: str) -> torch.nn.Module:
    case = CASES[name]
    metric = case.make(4)
    metric.update(*case.feed(draw(0, 24, 4)))
    return metric


@pytest.mark.parametrize("name", CASES)
def test_every_metric_draws_its_result_and_several_of_them(name: str) -> None:
    metric = fed(name)
    _, ax = metric.plot()
    assert ax.has_data()
    result = metric.compute()
    if isinstance(result, torch.Tensor) and result.dim() > 1:
        with pytest.raises(ValueError, match="one matrix at a time, got 2; give one result"):
            metric.plot([result, result])
        return
    if name in ("ChannelCorrelation", "ChannelMoments", "ResampledImages"):  # results of matrices
        return
    _, ax = metric.plot([result, result, result])
    assert ax.has_data()


def test_what_is_drawn_is_what_was_computed() -> None:
    metric = metrics.ActivationImportance(3)
    metric.update(torch.tensor([[[1.0], [2.0], [4.0]]]))
    _, ax = metric.plot()
    assert [bar.get_height() for bar in ax.patches] == [1.0, 2.0, 4.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("filter", "ActivationImportance")
    given = plt.figure().subplots()
    figure, ax = metric.plot([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])], ax=given)
    assert ax is given
    assert figure is given.figure
    assert ax.images[0].get_array().tolist() == [[1.0, 3.0], [2.0, 5.0]]
    assert ax.get_xlabel() == "check"


def test_a_probe_draws_its_numbers_by_name() -> None:
    _, ax = fed("RidgeProbe").plot()
    shown = {text.get_text() for text in ax.get_legend().get_texts()}
    assert shown == {"accuracy", "balanced_accuracy", "chance", "selectivity", "control_accuracy"}


def test_without_matplotlib_there_is_one_plain_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchmetrics.utilities.plot._MATPLOTLIB_AVAILABLE", False)
    for name in ("ActivationImportance", "RidgeProbe"):
        with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
            fed(name).plot()
