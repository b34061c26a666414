"""LayerPrediction in a real fit: its numbers against scikit-learn and plain torch, its pictures, its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from convscope import HeldOut, LayerPrediction
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TINY_RESNET_UNITS, images

Fit = Callable[..., Any]


class Keeps(LayerPrediction):
    """Remembers the last check's path, which the callback lets go of."""

    def end(self) -> None:
        self.kept = self._path or getattr(self, "kept", None)
        super().end()


def held_out() -> HeldOut:
    return HeldOut(images(60, seed=5), batch_size=16)


def test_the_last_layer_is_the_models_own_softmax(fit: Fit) -> None:
    callback = Keeps(heldout=held_out(), on_error="raise")
    run = fit([callback])
    module = run.module.eval()
    x, y = images(60, seed=5)
    with torch.no_grad():
        expected = module(x).softmax(1)
    path = callback.kept
    torch.testing.assert_close(path.log_probability[-1].exp(), expected, rtol=1e-4, atol=1e-6)
    assert path.layers == [f"net.{name}" for name in TINY_RESNET_UNITS] + ["output"]
    assert torch.equal(path.truth, y)
    mean = float(expected.gather(1, y[:, None]).mean())
    assert run.curve("prediction/true_probability/output")[-1][1] == pytest.approx(mean, abs=1e-5)
    entropy = torch.distributions.Categorical(expected).entropy().mean()
    assert run.curve("prediction/entropy/output")[-1][1] == pytest.approx(float(entropy), abs=1e-5)


def test_summaries_follow_from_the_path(fit: Fit) -> None:
    callback = Keeps(heldout=held_out(), on_error="raise")
    run = fit([callback])
    said = callback.kept.log_probability.argmax(2).numpy()
    depth = [1 + max([place for place in range(len(said)) if said[place, i] != said[-1, i]], default=-1) + 1
             for i in range(60)]  # fmt: skip
    assert run.curve("prediction/decision_depth")[-1][1] == pytest.approx(np.mean(depth), abs=1e-5)
    agreement = run.curve("prediction/agreement/net.conv1")[-1][1]
    assert agreement == pytest.approx((said[0] == said[-1]).mean(), abs=1e-6)
    gains = [run.curve(f"prediction/gain/{layer}")[-1][1] for layer in callback.kept.layers]
    log_truth = callback.kept.of_truth[-1].log().mean()
    assert sum(gains) == pytest.approx(float(log_truth) + np.log(3), abs=1e-3)  # beyond three equal classes


def test_pictures_of_the_same_samples_at_every_check_and_a_table_of_changes(fit: Fit) -> None:
    callback = LayerPrediction(heldout=held_out(), examples=3, changed=4, on_error="raise")
    events = fit([callback]).events
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("prediction/example/")]
    assert len(tags) == 3
    assert all(len(events.Images(tag)) == 3 for tag in tags)  # before training and after each epoch
    assert len(events.Histograms("prediction/decision_depths")) == 3
    texts = events.Tensors("prediction/changed_most/text_summary")
    assert len(texts) == 2  # from the second check on
    assert texts[0].tensor_proto.string_val[0].decode().count("\n") == 2 + 4 - 1


def test_examples_run_from_easy_to_hard(fit: Fit) -> None:
    callback = Keeps(heldout=held_out(), examples=5, every_n_epochs=0)  # one check, before training
    fit([callback], max_epochs=1)
    ease = callback.kept.of_truth.mean(0)
    chosen = ease[callback._chosen]
    assert chosen[0] == ease.max()
    assert chosen[-1] == ease.min()
    assert (chosen.diff() <= 0).all()


def test_a_resumed_run_goes_on_with_the_same_samples(fit: Fit, tmp_path: Any) -> None:
    first = LayerPrediction(heldout=held_out())
    checkpoint = L.pytorch.callbacks.ModelCheckpoint(tmp_path, filename="last")
    run = fit([first, checkpoint], max_epochs=1)
    again = LayerPrediction(heldout=held_out())
    resumed = fit([again], module=Classifier(), ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    assert again._chosen == first._chosen
    assert len(run.curve("prediction/changed")) == 1
    assert len(resumed.curve("prediction/changed")) == 1  # compared with the check before the resume


def test_fewer_classes_held_out_than_the_model_has(fit: Fit) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    callback = Keeps(heldout=HeldOut(images(40, classes=2, seed=2), classes=7), on_error="raise")
    fit([callback], module=Classifier(Wide()))
    probabilities = callback.kept.log_probability.exp()
    assert probabilities.shape == (2, 40, 7)
    assert float(probabilities[0, :, 2:].max()) == 0
    torch.testing.assert_close(probabilities.sum(2), torch.ones(2, 40))


@pytest.mark.parametrize("output", ["logits", "readout"])
def test_embeddings_are_read_out_and_refused_as_logits(fit: Fit, output: Any) -> None:
    class Embeds(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self(batch[0]).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self(batch[0]).mean())

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    callback = Keeps(heldout=held_out(), output=output, on_error="raise")
    if output == "logits":
        with pytest.raises(MisconfigurationException, match="output='readout'"):
            fit([callback], module=Embeds(net))
        return
    fit([callback], module=Embeds(net))
    assert callback.kept.log_probability.shape == (2, 60, 3)


def test_one_logit_for_two_classes(fit: Fit) -> None:
    class Binary(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return nn.functional.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1].float())

        validation_step = None  # type: ignore[assignment]

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    x, y = images(40, classes=2, seed=2)
    callback = Keeps(heldout=HeldOut((x, y)), on_error="raise")
    data = [torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8), None]
    run = fit([callback], module=Binary(net), data=data)
    with torch.no_grad():
        expected = run.module(x)[:, 0].sigmoid()
    torch.testing.assert_close(callback.kept.log_probability[-1, :, 1].exp(), expected, rtol=1e-4, atol=1e-5)


def test_regression_is_skipped_and_training_goes_on(fit: Fit) -> None:
    x, y = images(30)
    run = fit([LayerPrediction(heldout=HeldOut((x, y.float()))) ], data=loaders())  # fmt: skip
    assert not [tag for tag in run.events.Tags()["scalars"] if tag.startswith("prediction/")]
    assert run.trainer.global_step > 0


@pytest.mark.parametrize("arguments", [{"output": "softmax"}, {"examples": -1}, {"examples": True}, {"changed": 1.5}])
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        LayerPrediction(**arguments)
