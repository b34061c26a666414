"""Training batches in numbers, and the rules on them, in real fits."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope import DriftAlert
from convscope.callbacks.parts.training_batches import MOST_BATCHES, TrainingBatches
from tests.callbacks.conftest import Classifier

EPOCHS, BEGINS = 7, 4


def taken(*batches: Any, validation: Any = None) -> dict[str, float]:
    found = TrainingBatches()
    for batch in batches:
        found.note(batch, epoch=0)
    if validation is not None:
        found.note_validation(validation)
    return found.take()


def images(count: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of images: bright at the left, bright at the right."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    x = 0.3 * torch.randn(count, 3, 8, 8, generator=generator)
    x[y == 0, :, :, :4] += 1.0
    x[y == 1, :, :, 4:] += 1.0
    return x, y


def test_moments_are_those_of_the_inputs() -> None:
    x, y = images()
    found = taken((x[:32], y[:32]), (x[32:], y[32:]))
    for channel in range(3):
        mine = x[:, channel].double()
        mean, spread = mine.mean(), mine.std(correction=0)
        rough = (mine[..., 1:] - mine[..., :-1]).square().mean().sqrt()
        assert found[f"batches/spread_{channel}"] == pytest.approx(float(spread), rel=1e-4)
        assert found[f"batches/level_{channel}"] == pytest.approx(float(mean / spread), rel=1e-4)
        assert found[f"batches/skew_{channel}"] == pytest.approx(
            float(((mine - mean) / spread).pow(3).mean()), abs=1e-4
        )
        assert found[f"batches/detail_{channel}"] == pytest.approx(float(rough / spread), rel=1e-4)


def test_targets_tell_of_images_and_wrong_ones_do_not() -> None:
    x, y = images()
    assert taken((x, y))["batches/told"] > 0.8
    assert taken((x, y[torch.randperm(64, generator=torch.Generator().manual_seed(1))]))["batches/told"] < 0.1
    assert taken((x, y))["batches/class_share_1"] == 0.5


def test_quantities_and_masks_tell_too() -> None:
    x, _ = images()
    sizes = torch.linspace(-1, 1, 64)
    x = x * 0.1 + sizes[:, None, None, None]
    assert taken((x, sizes[:, None]))["batches/told"] > 0.9
    masks = (torch.arange(8) < (4 + 4 * sizes)[:, None, None]).long().expand(64, 8, 8)
    found = taken((x, masks))
    assert found["batches/told"] > 0.8
    assert found["batches/class_share_0"] + found["batches/class_share_1"] == pytest.approx(1.0)


def test_of_large_masks_an_even_grid_is_kept() -> None:
    masks = (torch.arange(512) < 384).long().expand(2, 512, 512)
    found = TrainingBatches()
    found.note((torch.randn(2, 1, 8, 8), masks), epoch=0)
    kept = found._batches[0].targets
    assert kept is not None
    assert kept.shape == (2, 64, 64)
    assert found.take()["batches/class_share_1"] == pytest.approx(0.75)


def test_repeated_and_shared_samples_are_counted() -> None:
    x, y = images()
    assert taken((x[:32], y[:32]), (x[32:], y[32:]))["batches/repeated"] == 0
    assert taken((x[:32], y[:32]), (x[:32], y[:32]))["batches/repeated"] == 0.5
    other, _ = images(seed=5)
    assert taken((x, y), validation=(other, y))["batches/validation"] == 0
    mixed = torch.cat([other[:16], x[16:]])
    assert taken((x, y), validation=(mixed, y))["batches/validation"] == 0.75


def test_the_same_samples_in_two_epochs_are_no_repetition() -> None:
    x, y = images()
    found = TrainingBatches()
    for epoch in range(2):
        found.note((x, y), epoch)
    assert found.take()["batches/repeated"] == 0


@pytest.mark.parametrize("batch", [(torch.randn(8, 5), torch.zeros(8)), ["a", "b"], torch.randn(4, 30, 8, 8), None])
def test_what_holds_no_images_is_left_alone(batch: Any) -> None:
    assert taken(batch) == {}


def test_images_without_targets_and_of_one_colour_have_what_they_have() -> None:
    found = taken(torch.zeros(4, 1, 8, 8))
    assert found == {"batches/spread_0": 0.0, "batches/repeated": 0.75}


def test_no_more_batches_are_kept_than_said() -> None:
    found = TrainingBatches()
    for _ in range(MOST_BATCHES + 9):
        found.note(images(4), epoch=0)
    assert len(found._batches) == MOST_BATCHES


class Spoilt(Classifier):
    """A program whose batches are spoilt on their way to it, from an epoch on."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how = how

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        spoilt = self.trainer.training and self.trainer.current_epoch >= BEGINS
        return list(self.how(*batch)) if spoilt else batch


def loader(seed: int = 0) -> DataLoader[Any]:
    x, y = images(seed=seed)
    return DataLoader(TensorDataset(x[:, :1].repeat(1, 3, 1, 1), y), batch_size=16)


SPOILT: dict[str, Any] = {
    "inputs_rescaled": lambda x, y: (x * 255, y),
    "inputs_shifted": lambda x, y: (x + 2, y),
    "inputs_changed": lambda x, y: (torch.nn.functional.avg_pool2d(x, 3, 1, 1) * 1.3, y),
    "targets_changed": lambda x, y: (x, torch.ones_like(y)),
    "targets_do_not_fit": lambda x, y: (
        x,
        y.roll(1) * (torch.arange(len(y)) % 4 < 2) + y * (torch.arange(len(y)) % 4 > 1),
    ),
    "validation_in_training": lambda x, y: (images(seed=1)[0][: len(x), :1].repeat(1, 3, 1, 1), y),
    "samples_repeated": lambda x, y: (loader().dataset[:16][0], y),
}


@pytest.mark.parametrize("rule", list(SPOILT))
def test_a_spoilt_loader_is_named_as_soon_as_there_is_evidence(rule: str, tmp_path: Any) -> None:
    alert = DriftAlert(actions=[])
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path, callbacks=[alert],
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(Spoilt(SPOILT[rule]), loader(), loader(seed=1))
    named = BEGINS + 2 * (rule == "targets_do_not_fit")  # which asks for three checks
    assert rule in [one.rule for one in alert.alerts if one.epoch == named]
    assert not [one for one in alert.alerts if one.epoch < BEGINS]


def test_looking_changes_no_bit_of_training(tmp_path: Any) -> None:
    weights = []
    for callbacks in ([], [DriftAlert(actions=[])]):
        torch.manual_seed(0)
        module = Classifier()
        L.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, callbacks=callbacks,
        ).fit(module, loader(), loader(seed=1))  # fmt: skip
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*weights)


def test_the_rules_are_among_the_default_ones() -> None:
    names = {rule.name for rule in convscope.rules.default()}
    assert names >= SPOILT.keys() | {"targets_in_one_place"}
