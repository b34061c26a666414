"""Two processes, with uneven and with empty shards, give what one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric

import convscope.metrics as metrics

N, C, K = 30, 4, 3


def make_cases() -> dict[str, tuple[Metric, tuple[Tensor, ...]]]:
    """Every metric with the rows it is fed: tensors whose first dimension is shared out."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(N) % K
    features = torch.randn(N, C, generator=generator) + torch.eye(K, C)[target]
    maps, gradient = (torch.randn(N, C, 3, 3, generator=generator) for _ in range(2))
    probe = features, target, torch.arange(N)
    importance, other = features[:, 0].abs(), features[:, 1].abs()
    return {
        "ridge": (metrics.RidgeProbe(), probe),
        "logistic": (metrics.LogisticProbe(folds=3), probe),
        "knn": (metrics.KNNProbe(k=3), probe),
        "centroid": (metrics.CentroidProbe(), probe),
        "regression": (
            metrics.RegressionProbe(),
            (features, features @ torch.ones(C, 2) + maps[:, :2, 0, 0], torch.arange(N)),
        ),
        "multilabel": (metrics.MultiLabelProbe(), (features, (maps[:, :2, 0, 0] > 0).long(), torch.arange(N))),
        "segmentation": (metrics.SegmentationProbe(3), (maps, (gradient[:, 0] > 0).long(), torch.arange(N))),
        "correlation": (metrics.ChannelCorrelation(C), (maps,)),
        "taylor": (metrics.TaylorImportance(C), (maps, gradient)),
        "product": (metrics.GradientActivationImportance(C), (maps, gradient)),
        "activation": (metrics.ActivationImportance(C), (maps,)),
        "mean": (metrics.ChannelMean(C), (features,)),
        "readout": (metrics.OutputReadout(), probe),
        "output": (metrics.OutputCorrelation(C, K), (features, torch.eye(K)[target])),
        "gini": (metrics.GiniCoefficient(), (importance,)),
        "top": (metrics.TopShare(), (importance,)),
        "stability": (metrics.RankStability(), (importance, other)),
        "turnover": (metrics.Turnover(), (importance, other)),
    }


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    shards = {
        "uneven": [torch.arange(21), torch.arange(21, N)],
        "interleaved": [torch.arange(0, N, 2), torch.arange(1, N, 2)],
        "empty": [torch.arange(0), torch.arange(N)],
    }
    found: dict[str, list[Tensor]] = {}
    for split, parts in shards.items():
        for name, (metric, rows) in make_cases().items():
            for chunk in parts[rank].split(4) if len(parts[rank]) else ():
                metric.update(*(x[chunk] for x in rows))
            found[f"{name}/{split}"] = flat(metric.compute())
            if isinstance(metric, metrics.OutputCorrelation):
                found[f"matrix/{split}"] = [metric.matrix()]
    weight = metrics.WeightImportance(2)
    weight.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    found["weight"] = [weight.compute()]
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(work, args=(str(folder),), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("split", ["uneven", "interleaved", "empty"])
@pytest.mark.parametrize("name", make_cases())
def test_two_ranks_give_what_one_gives(found: list[dict[str, list[Tensor]]], name: str, split: str) -> None:
    metric, rows = make_cases()[name]
    metric.update(*rows)
    expected = flat(metric.compute())
    for rank in range(2):
        for value, other in zip(found[rank][f"{name}/{split}"], expected, strict=True):
            torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-6)


def test_signed_output_correlation_is_synchronised(found: list[dict[str, list[Tensor]]]) -> None:
    metric, rows = make_cases()["output"]
    metric.update(*rows)
    torch.testing.assert_close(found[0]["matrix/uneven"][0], metric.matrix(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1]["matrix/empty"][0], metric.matrix(), rtol=1e-6, atol=1e-6)


def test_weights_that_every_rank_holds_are_not_counted_twice(found: list[dict[str, list[Tensor]]]) -> None:
    assert found[0]["weight"][0].tolist() == found[1]["weight"][0].tolist() == [3, 7]
