"""When checks are made, and what they cost."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import convscope
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TinyResNet, images
from tests.support.spies import watch

TAG = "probe/accuracy/output"


def steps(run: Any) -> list[int]:
    return [step for step, _ in run.curve(TAG)]


@pytest.mark.parametrize(
    ("arguments", "trainer", "expected"),
    [
        ({}, {}, [0, 3, 7, 11, 15]),
        ({"on_start": False}, {}, [3, 7, 11, 15]),
        ({"every_n_epochs": 2}, {}, [0, 7, 15]),
        ({"every_n_epochs": 3}, {}, [0, 11]),
        ({"every_n_epochs": 0}, {}, [0]),
        ({"every_n_epochs": 0, "every_n_train_steps": 3, "on_start": False}, {}, [2, 5, 8, 11, 14]),
        ({"every_n_epochs": 0, "every_n_train_steps": 5}, {"accumulate_grad_batches": 2}, [0, 4]),
        ({"every_n_epochs": 1}, {"val_check_interval": 0.5}, [0, 1, 3, 5, 7, 9, 11, 13, 15]),
        ({"every_n_epochs": 1}, {"check_val_every_n_epoch": 2}, [0, 7, 15]),
        ({"every_n_epochs": 3}, {"check_val_every_n_epoch": 2}, [0, 15]),
    ],
)
def test_steps_of_checks(fit: Any, arguments: dict[str, Any], trainer: dict[str, Any], expected: list[int]) -> None:
    callbacks = [convscope.LayerProbe(layers="net.conv1", pictures=False, **arguments)]
    assert steps(fit(callbacks, max_epochs=4, **trainer)) == expected


def test_values_of_step_checks_can_be_monitored_at_once(fit: Any) -> None:
    seen: list[Any] = []

    class Look(convscope.LayerTable):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            seen.append(trainer.callback_metrics.get(TAG))

    probe = convscope.LayerProbe(layers="net.conv1", every_n_epochs=0, every_n_train_steps=2, on_start=False)
    run = fit([probe, Look()], max_epochs=1)
    assert [value is not None for value in seen] == [False, False, True, True]
    assert float(seen[2]) == pytest.approx(run.curve(TAG)[0][1])


def test_callbacks_of_different_intervals_share_the_passes_they_both_have(fit: Any) -> None:
    callbacks = [
        convscope.LayerProbe(layers="net.conv1"),
        convscope.FilterCorrelation(layers="net.conv1", every_n_epochs=2, on_start=False),
    ]
    run = fit(callbacks, max_epochs=4)
    assert steps(run) == [0, 3, 7, 11, 15]
    assert [step for step, _ in run.curve("correlation/mean_abs/net.conv1")] == [7, 15]


class Stream(IterableDataset):
    """Thirty samples that can be read again, and count how often they are."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Any:
        self.reads += 1
        yield from zip(*images(30, seed=1), strict=True)


def test_an_iterable_validation_loader_is_tapped_in_the_first_validation(fit: Any) -> None:
    stream = Stream()
    heldout = convscope.HeldOut(size=20)
    run = fit([convscope.LayerProbe(heldout=heldout)], data=(loaders()[0], DataLoader(stream, 8)), max_epochs=3)
    assert steps(run) == [3, 7, 11]  # nothing before the first validation
    assert torch.equal(heldout.inputs, images(30, seed=1)[0][:20])
    assert stream.reads == 4  # the sanity check and three validations: none of ours


@pytest.mark.parametrize("on_start", [False, True])
def test_steps_before_a_stream_has_flowed_by_are_passed_over(fit: Any, on_start: bool) -> None:
    often = {"every_n_epochs": 0, "every_n_train_steps": 3, "on_start": on_start}
    probe = convscope.LayerProbe(layers="net.conv1", heldout=convscope.HeldOut(size=20), **often)
    run = fit([probe], data=(loaders()[0], DataLoader(Stream(), 8)), max_epochs=3)
    # The third step came before the first validation; its check is made up after it, the others come at their step.
    assert steps(run) == ([3, 4, 5, 8, 11] if on_start else [4, 5, 8, 11])
    assert run.curve("zz_convscope/errors")[-1][1] == 0


def test_seconds_overhead_and_errors_are_logged(fit: Any) -> None:
    run = fit(convscope.suite("light"), max_epochs=2)
    seconds, overhead = run.curve("zz_convscope/seconds"), run.curve("zz_convscope/overhead")
    assert [step for step, _ in seconds] == [0, 3, 7]
    assert [step for step, _ in overhead] == [3, 7]
    assert all(value > 0 for _, value in seconds + overhead)
    assert [value for _, value in run.curve("zz_convscope/errors")] == [0.0, 0.0, 0.0]


class Slow(convscope.LayerProbe):
    """A check that takes at least 0.4 seconds."""

    def summarise(self, values: Any) -> Any:
        time.sleep(0.4)
        return super().summarise(values)


def test_max_overhead_stretches_the_interval_and_says_so(fit: Any, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        run = fit([Slow(layers="net.conv1", max_overhead=1e-4)], max_epochs=4)
    assert steps(run) == [0]  # the next one would have to wait for more than an hour of training
    waits = [m for m in caplog.messages if "to keep checks under max_overhead=0.0001, the next one waits" in m]
    assert len(waits) == 1  # not at each epoch
    assert steps(fit([Slow(layers="net.conv1")], max_epochs=4)) == [0, 3, 7, 11, 15]


class Step(Classifier):
    """Validation data in the module, no forward, and a normalisation on the device."""

    def __init__(self) -> None:
        super().__init__(TinyResNet(4, classes=3))
        self.transferred: list[bool] = []

    forward = Classifier.__mro__[1].forward  # Lightning's own: not defined

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.transferred.append(self.trainer.training)
        return (batch[0] * 2, batch[1])


def test_a_module_without_forward_and_with_a_transfer_hook(fit: Any) -> None:
    module, heldout = Step(), convscope.HeldOut()
    seen = watch(module.net.conv1, lambda *_: len(module.transferred))
    run = fit([convscope.LayerProbe(heldout=heldout)], module=module, num_sanity_val_steps=0)
    assert steps(run) == [0, 3, 7]
    assert torch.equal(heldout.inputs, images(30, seed=1)[0] * 2)
    assert not any(module.transferred[: seen[0]])  # as in validation, not as in training, which may augment
