"""What torchmetrics lets users do with a metric between updates: its numbers stay the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchmetrics import Metric

import convscope.metrics as metrics
from tests.metrics.test_distributed import SHARED_OUT, C, inputs_of
from tests.support.metric_cases import CASES
from tests.support.metric_laws import assert_alike, update
from tests.support.processes import gather, in_processes

N = 30  # as many as `inputs_of` gives
GATHERING = [name for name in SHARED_OUT if isinstance(CASES[name].make(C), metrics._base.GatheringMetric)]
PROBES = [name for name in SHARED_OUT if isinstance(CASES[name].make(C), metrics._features.FeatureStore)]


def fed(name: str, metric: Metric, start: int = 0, stop: int = N) -> Metric:
    update(CASES[name], metric, inputs_of(name), torch.arange(start, stop))
    return metric


def persistent(name: str) -> Metric:
    metric = CASES[name].make(C)
    metric.persistent(True)
    return metric


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", SHARED_OUT)
def test_a_module_that_changes_its_type_leaves_its_metrics_their_digits(name: str, dtype: torch.dtype) -> None:
    metric = fed(name, CASES[name].make(C), stop=13)
    torch.nn.ModuleList([metric]).to(dtype)
    fed(name, metric, start=13)
    assert_alike(metric.compute(), fed(name, CASES[name].make(C)).compute())


@pytest.mark.parametrize("name", PROBES)
def test_a_state_that_is_loaded_replaces_what_was_collected(name: str) -> None:
    metric = fed(name, persistent(name))
    metric.load_state_dict(persistent(name).state_dict())
    assert_alike(fed(name, metric).compute(), fed(name, CASES[name].make(C)).compute())


def test_features_that_were_loaded_keep_their_width() -> None:
    metric = metrics.RidgeProbe()
    metric.persistent(True)
    metric.load_state_dict(fed("RidgeProbe", persistent("RidgeProbe")).state_dict())
    with pytest.raises(ValueError, match="must have 4 columns as in earlier chunks, got 5"):
        metric.update(torch.rand(2, 5), torch.tensor([0, 1]), torch.tensor([30, 31]))


def in_rank(rank: int) -> dict[str, list[Any]]:
    found = {}
    for name in GATHERING:
        saved = fed(name, persistent(name), 15 * rank, 15 * rank + 10)
        with saved.sync_context():
            state = saved.state_dict()
        again = persistent(name)
        again.load_state_dict(state if rank == 0 else persistent(name).state_dict())
        fed(name, again, 15 * rank + 10, 15 * rank + 15)
        other = fed(name, CASES[name].make(C), 15 * rank, 15 * rank + 15)
        other.set_dtype(torch.float64)
        found[name] = [again.compute(), other.compute()]
    return {name: gather(results) for name, results in found.items()}


def test_synchronised_states_can_be_saved_and_types_be_set_in_several_processes() -> None:
    for name, processes in in_processes(in_rank, 2)[0].items():
        expected = fed(name, CASES[name].make(C)).compute()
        for results in processes:
            for result in results:
                assert_alike(result, expected)
