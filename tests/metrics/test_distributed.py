"""Two processes, with uneven and with empty shards, give what one gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchmetrics
from torch import Tensor

import convscope.metrics as metrics
from tests.support.metric_cases import CASES, Inputs
from tests.support.metric_laws import draw, fields, result, update

N, C = 30, 4
SHARDS = {
    "uneven": [torch.arange(21), torch.arange(21, N)],
    "interleaved": [torch.arange(0, N, 2), torch.arange(1, N, 2)],
    "empty": [torch.arange(0), torch.arange(N)],
}
SHARED_OUT = [name for name, case in CASES.items() if case.gathers or not case.one_shot]
WHOLE_ON_EACH = [name for name in CASES if name not in SHARED_OUT]


def inputs_of(name: str) -> Inputs:
    """What a metric is fed; a vector that may come in parts has as many channels as there are samples."""
    case = CASES[name]
    return case.feed(draw(0, N, N if case.gathers else C))


def exchanges(metric: torchmetrics.Metric) -> Counter[str]:
    """How often each collective is called while a metric computes."""
    calls: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_reduce", "all_gather", "barrier"):
            whole = getattr(dist, name)

            def counted(*args: Any, name: str = name, whole: Any = whole, **kwargs: Any) -> Any:
                calls[name] += 1
                return whole(*args, **kwargs)

            patch.setattr(dist, name, counted)
        metric.compute()
    return calls


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found: dict[str, dict[str, Tensor]] = {}
    for split, parts in SHARDS.items():
        for name in SHARED_OUT:
            metric = CASES[name].make(C)
            for chunk in parts[rank].split(4) if len(parts[rank]) else ():
                update(CASES[name], metric, inputs_of(name), chunk)
            found[f"{name}/{split}"] = fields(metric.compute())
            if isinstance(metric, metrics.OutputCorrelation):
                found[f"matrix/{split}"] = {"": metric.matrix()}
    for name in WHOLE_ON_EACH:
        found[name] = fields(result(CASES[name], C, inputs_of(name)))
    for name in ("FilterActivity", "ChannelCorrelation", "RidgeProbe"):
        metric = CASES[name].make(C)
        update(CASES[name], metric, inputs_of(name), SHARDS["uneven"][rank])
        found[f"exchanges/{name}"] = {call: torch.tensor(n) for call, n in exchanges(metric).items()}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(work, args=(str(folder),), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_on_both(found: list[dict[str, dict[str, Tensor]]], key: str, expected: dict[str, Tensor]) -> None:
    for rank in range(2):
        assert found[rank][key].keys() == expected.keys()
        for field, value in expected.items():
            torch.testing.assert_close(found[rank][key][field], value, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("split", SHARDS)
@pytest.mark.parametrize("name", SHARED_OUT)
def test_two_ranks_give_what_one_gives(found: list[dict[str, dict[str, Tensor]]], name: str, split: str) -> None:
    assert_on_both(found, f"{name}/{split}", fields(result(CASES[name], C, inputs_of(name))))


@pytest.mark.parametrize("name", WHOLE_ON_EACH)
def test_what_every_rank_holds_is_not_counted_twice(found: list[dict[str, dict[str, Tensor]]], name: str) -> None:
    assert_on_both(found, name, fields(result(CASES[name], C, inputs_of(name))))


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("ChannelCorrelation", {"all_reduce": 1}),
        ("FilterActivity", {"all_reduce": 2}),
        ("RidgeProbe", {"all_gather": 2}),
    ],
)
def test_sums_and_extremes_take_an_exchange_each_and_all_lists_two(
    found: list[dict[str, dict[str, Tensor]]], name: str, calls: dict[str, int]
) -> None:
    assert found[0][f"exchanges/{name}"] == {call: torch.tensor(count) for call, count in calls.items()}


def test_an_exchange_of_the_users_own_gets_every_state() -> None:
    def two_alike(state: Tensor, group: Any = None) -> list[Tensor]:
        return [state, state]

    alone = CASES["FilterActivity"].make(C)
    both = metrics.FilterActivity(C, dist_sync_fn=two_alike, distributed_available_fn=lambda: True)
    for metric in (alone, both):
        update(CASES["FilterActivity"], metric, inputs_of("FilterActivity"), torch.arange(N))
    assert torch.equal(both.compute().active_share, alone.compute().active_share)
    with both.sync_context(dist_sync_fn=two_alike):
        assert torch.equal(both.sums, 2 * alone.sums)
        assert torch.equal(both.maximum, alone.maximum)


def test_signed_output_correlation_is_synchronised(found: list[dict[str, dict[str, Tensor]]]) -> None:
    metric = metrics.OutputCorrelation(C, 3)
    metric.update(*inputs_of("OutputCorrelation"))
    for split in SHARDS:
        assert_on_both(found, f"matrix/{split}", {"": metric.matrix()})
