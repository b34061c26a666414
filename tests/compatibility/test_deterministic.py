"""``Trainer(deterministic=True)``: nothing of ours is refused, and two runs give one set of numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from tests.callbacks.conftest import Classifier
from tests.compatibility.cells import observers
from tests.networks import images
from tests.support import deterministic
from tests.support.deterministic import Refusals

X, Y = images(40)
MASKS = (X.mean(1) > 0).long()


class Convs(nn.Module):
    """Two units and a head, of operations whose own gradients no device refuses."""

    def __init__(self, outputs: int, spatial: bool) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.head = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, outputs, 1)
        self.spatial = spatial

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x))))))
        return x if self.spatial else x.mean((2, 3))


class Task(Classifier):
    def __init__(self, net: nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__(net)
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


TASKS: dict[str, tuple[torch.Tensor, int, Callable[..., torch.Tensor]]] = {
    "classes": (Y, 3, F.cross_entropy),
    "masks": (MASKS, 2, lambda out, mask: F.mse_loss(out, F.one_hot(mask, 2).movedim(-1, 1).float())),
    "labels": (torch.stack([Y == 0, Y != 1], 1).float(), 2, F.binary_cross_entropy_with_logits),
    "regression": (X.mean((1, 2)), 8, F.mse_loss),
}


def everything(heldout: convscope.HeldOut, masks: bool) -> list[Any]:
    more = [
        convscope.LayerProbe(probe="knn", heldout=heldout, name="knn"),
        convscope.LayerProbe(probe="logistic", heldout=heldout, name="logistic"),
        convscope.LayerPrediction(output="readout", heldout=heldout, name="readout"),
        convscope.FilterImportance(criterion="output_correlation", heldout=heldout),
    ]
    if not masks:  # which are probed position by position anyway
        more.append(convscope.LayerProbe(pooling=2, heldout=heldout, name="grid"))
    # Of a convolution that gives the masks there are no next features that an explainer could reconstruct.
    fitting = [each for each in observers(heldout=heldout) if not (masks and isinstance(each, convscope.Explainer))]
    return [*fitting, *more, convscope.DriftAlert()]


def fit(task: str, folder: Path) -> tuple[dict[str, float], Refusals]:
    targets, outputs, loss = TASKS[task]
    L.seed_everything(3, verbose=False)
    heldout = convscope.HeldOut((X, targets), batch_size=16)
    module = Task(Convs(outputs, targets.dim() > 2), loss)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", deterministic=True, logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
                        callbacks=everything(heldout, targets.dim() > 2))  # fmt: skip
    loader = DataLoader(TensorDataset(X, targets), 8)
    with Refusals() as refusals:
        trainer.fit(module, loader, loader)
    assert torch.are_deterministic_algorithms_enabled()
    clocks = ("zz_convscope/seconds", "zz_convscope/overhead")
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k not in clocks}, refusals


@pytest.fixture(autouse=True)
def _deterministic_here_alone() -> Any:
    yield
    torch.use_deterministic_algorithms(False)


def test_what_is_refused_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deterministic, "OURS", (str(Path(deterministic.__file__).resolve()),))
    found = [line.split(" at ")[0] for line in deterministic.check_the_detector()]
    assert found == ["bincount", "cumsum", "median"]


@pytest.fixture(scope="module")
def first_fit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, float], Refusals]]:
    """The first fit of a task, made once."""
    return cache(lambda task: fit(task, tmp_path_factory.mktemp(task)))


@pytest.mark.parametrize("task", TASKS)
def test_no_operation_of_ours_is_refused_on_a_device(task: str, first_fit: Any) -> None:
    values, refusals = first_fit(task)
    assert values["zz_convscope/errors"] == 0.0
    assert any(tag.startswith("probe/") for tag in values)
    assert {"convolution", "mm"} <= refusals.seen  # the watch was on during checks
    assert sorted(set(refusals.found)) == []


def test_two_runs_give_the_same_numbers(first_fit: Any, tmp_path: Path) -> None:
    first, second = first_fit("classes")[0], fit("classes", tmp_path)[0]
    assert {k: repr(v) for k, v in first.items()} == {k: repr(v) for k, v in second.items()}
