"""One failure costs one number: whichever hook of a callback fails, at every check, the others' numbers are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

import convscope
from tests.callbacks.conftest import Classifier
from tests.callbacks.test_resume import checkpointed
from tests.capture.test_isolation import same
from tests.compatibility.cells import small, train
from tests.networks import Plain

HOOKS = [
    "suits", "skips", "ready", "begin", "on_activation", "on_gradient", "compute", "summarise", "conclude", "remember",
    "draw", "end", "drop_gradients", "state", "restart",
]  # fmt: skip
OTHERS = ("probe/", "correlation/", "health/", "drift/", "similarity/", "prediction/")


class Failing(convscope.FilterImportance):
    """Fails in one hook, whenever it is called."""

    def __init__(self, hook: str, error: type[Exception]) -> None:
        super().__init__(name="failing")
        self.hook, self.error = hook, error

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name in HOOKS and name == own.get("hook"):
            raise own["error"]("on purpose")
        return super().__getattribute__(name)


def others() -> list[Any]:
    """Forward only, with gradients, with conclusions: all on the held-out set of the one that fails."""
    kinds = ("LayerProbe", "FilterCorrelation", "FilterHealth", "RepresentationDrift", "LayerSimilarity")
    return [*(getattr(convscope, kind)(pictures=False) for kind in kinds), convscope.LayerPrediction(pictures=False)]


def of_others(done: Any) -> dict[str, float]:
    """Their numbers, without those that they compute from importances."""
    mine = {name: value for name, value in done.scalars.items() if name.startswith(OTHERS)}
    return {name: value for name, value in mine.items() if "importance" not in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> dict[str, float]:
    """What the others find where nothing fails."""
    found = of_others(train(others(), tmp_path_factory.mktemp("whole"), make=small))
    assert len(found) > 50
    return found


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook not in ("drop_gradients", "state")])
def test_a_hook_that_always_fails_costs_its_own_callback_alone(hook: str, tmp_path: Path, whole: Any) -> None:
    logger = TensorBoardLogger(tmp_path, name="run")
    done = train([Failing(hook, RuntimeError), *others()], tmp_path, make=small, logger=logger)
    assert of_others(done) == whole
    assert done.scalars["zz_convscope/errors"] > 0
    assert done.trainer.global_step == 8


def test_a_callback_whose_state_cannot_be_saved_costs_no_checkpoint(tmp_path: Path, whole: Any, caplog: Any) -> None:
    saving = ModelCheckpoint(tmp_path, save_last=True)
    done = train([Failing("state", KeyError), *others(), saving], tmp_path, make=small)
    assert of_others(done) == whole
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert any("LayerProbe" in key for key in saved["callbacks"])
    assert "failing: saving its state failed, so a resumed run starts it over (KeyError" in caplog.text


class LossThatFails:
    """A user's loss that raises, or whose backward does, on evaluation data from its n-th call on."""

    def __init__(self, first: int, backward: bool) -> None:
        self.first, self.backward, self.calls = first, backward, 0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        losses = F.cross_entropy(logits, targets, reduction="none")
        if self.calls < self.first:
            return losses
        if not self.backward:
            raise ZeroDivisionError("the user's loss")
        return Unwilling.apply(losses)


class Unwilling(torch.autograd.Function):
    """Cannot be gone back through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("the user's backward")


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("first", [4, 6])  # in a pass of four chunks: at its beginning, and in its middle
def test_a_loss_that_fails_in_a_check_costs_what_needs_it(
    first: int, backward: bool, tmp_path: Path, caplog: Any
) -> None:
    def callbacks(loss: Any) -> list[Any]:
        heldout = convscope.HeldOut(size=29, batch_size=8)
        shared = {"heldout": heldout, "pictures": False, "on_error": "warn"}
        kinds = (convscope.LayerProbe, convscope.FilterCorrelation)
        needing = (convscope.FilterHealth, convscope.FilterImportance)
        return [*(kind(**shared) for kind in kinds), *(kind(loss=loss, **shared) for kind in needing)]

    plain = train(callbacks(F.cross_entropy), tmp_path, make=small, max_epochs=1)
    done = train(callbacks(LossThatFails(first + 2, backward)), tmp_path, make=small, max_epochs=1)
    expected = {
        name: value
        for name, value in plain.scalars.items()
        if name.startswith(("probe/", "correlation/", "health/")) and "gradient" not in name
    }
    assert len(expected) > 20
    assert {name: done.scalars[name] for name in expected} == expected
    assert "the loss on the held-out set, or its backward, failed (ZeroDivisionError: the user's" in caplog.text
    without = train([], tmp_path, make=small, max_epochs=1)
    assert same(without.outcome["state"], done.outcome["state"])


class RefusesGradients(Plain):
    """In evaluation it runs where no gradient is wanted, or not at all."""

    def __init__(self) -> None:
        super().__init__(channels=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and torch.is_grad_enabled():
            raise RuntimeError("evaluated with gradients")
        return super().forward(x)


def test_a_forward_that_allows_no_gradient_is_measured_without(tmp_path: Path, caplog: Any) -> None:
    callbacks = [kind(pictures=False) for kind in (convscope.LayerProbe, convscope.FilterHealth)]
    done = train([*callbacks, convscope.FilterImportance()], tmp_path, make=lambda: Classifier(RefusesGradients()))
    assert {"probe/accuracy/net.conv1", "health/dead_filters/net.conv1"} <= done.scalars.keys()
    assert not any("gradient" in name or name.startswith("importance/") for name in done.scalars)
    assert "evaluated with gradients" in caplog.text


def test_a_heldout_set_that_fails_costs_its_own_callbacks(tmp_path: Path, whole: Any, caplog: Any) -> None:
    class Broken(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 30

        def __getitem__(self, number: int) -> Any:
            raise ValueError("no such file")

    broken = convscope.FilterImportance(heldout=convscope.HeldOut(Broken()))
    done = train([broken, *others()], tmp_path, make=small)
    assert of_others(done) == whole
    assert not any(name.startswith("importance") for name in done.scalars)
    assert "preparing the checks of importance failed" in caplog.text
    assert "no such file" in caplog.text


class OtherVersion(L.Callback):
    """Spoils one callback's state in whatever is restored."""

    def __init__(self, part: str, spoil: Any) -> None:
        self.part, self.spoil = part, spoil

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        for key, state in checkpoint["callbacks"].items():
            if self.part in key:
                checkpoint["callbacks"][key] = self.spoil(state)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {"other": 1},
        lambda state: {**state, "history": None},
        lambda state: {**state, "schedule": {}},
        lambda state: {**state, "previous": 3},
        lambda state: [1, 2],
    ],
    ids=["another version", "no history", "no schedule", "no tensors", "a list"],
)
def test_a_state_that_cannot_be_restored_costs_one_callback(fit: Any, tmp_path: Path, spoil: Any, caplog: Any) -> None:
    checkpointed(fit, tmp_path, 2, module=Classifier(Plain(channels=3)))
    callbacks = [*convscope.suite("standard", pictures=False), OtherVersion("FilterImportance", spoil)]
    module = Classifier(Plain(channels=3))
    run = fit(callbacks, module=module, max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    assert [step for step, _ in run.curve("probe/accuracy/output")] == [11, 15]
    assert [step for step, _ in run.curve("importance/gini/net.conv1")] == [11, 15]
    assert callbacks[0].history.epochs == [0, 1, 2, 3, 4]
    assert callbacks[1].history.epochs == [3, 4]
    assert "importance: its state in the checkpoint cannot be restored, so it starts over" in caplog.text


def test_on_error_raise_lets_a_bad_state_through(fit: Any, tmp_path: Path) -> None:
    checkpointed(fit, tmp_path, 1, module=Classifier(Plain(channels=3)))
    spoil = OtherVersion("LayerProbe", lambda state: {"other": 1})
    callbacks = [convscope.LayerProbe(on_error="raise"), spoil]
    with pytest.raises(KeyError, match="history"):
        fit(callbacks, module=Classifier(Plain(channels=3)), max_epochs=2, ckpt_path=tmp_path / "last.ckpt")


def test_drift_and_health_keep_what_a_failing_importance_does_not_give(tmp_path: Path) -> None:
    done = train([Failing("compute", ValueError), convscope.RepresentationDrift()], tmp_path, make=small)
    assert "drift/cka_previous/net.conv1" in done.scalars
    assert not any("importance_stability" in name for name in done.scalars)
