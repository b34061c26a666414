"""The benchmark that freezes what has converged."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn")

from benchmarks.freezing import Digits, data, freeze, time_saved


def test_what_is_frozen_does_not_train_and_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    module = Digits("batch").train()
    freeze(module, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    module(torch.randn(8, 1, 16, 16)).square().mean().backward()
    optimizer.step()
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[1] for name in moved if name.startswith("units")} == {"2", "3", "4", "5"}


def test_freezing_nearly_everything_saves_time() -> None:
    torch.manual_seed(0)
    batches = [list(batch) for batch in data()[0]][:2]
    assert time_saved(Digits("group"), 0, 6, batches, pairs=5) > 0.2
