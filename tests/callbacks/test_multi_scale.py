"""Multi-scale interpretation through a real Trainer.fit: numbers by hand, what is written, when it is inactive."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convscope import Findings, HeldOut, Moment, MultiScaleInterpretation, read_run
from convscope.callbacks.engine import progress
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.planning import make_plan
from convscope.callbacks.engine.shared_pass import run_pass
from convscope.capture import Subject
from convscope.explainers.segments import segment, segment_means
from convscope.explainers.switches import distances, draw_switches, fill_image, nearness, share_on, switched
from convscope.metrics import MultiScaleFit
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import Plain, TinyResNet, images
from tests.support import awkward

Fit = Callable[..., Any]
ALONE = {
    "r2_coarse", "r2_fine", "nonzero_coarse", "nonzero_fine", "constraint_residual", "optimality", "probability",
    "focus", "deletion", "deletion_gradient", "deletion_random", "insertion", "insertion_gradient", "insertion_random",
    "deletion_gain",
}  # fmt: skip
CHANGES = {"top1_stability", "iou", "rank_correlation"}


def small(**arguments: Any) -> MultiScaleInterpretation:
    """Few images and copies, at every epoch."""
    given: dict[str, Any] = {"images": 3, "samples": 24, "every_n_epochs": 1, "on_start": True, "on_error": "raise"}
    return MultiScaleInterpretation(**{**given, **arguments})


def tags(run: Any) -> set[str]:
    return {tag for tag in run.events.Tags()["scalars"] if tag.startswith("multi_scale/")}


def test_every_documented_tag_is_written_and_a_picture_per_image(fit: Fit) -> None:
    run = fit([small()])
    assert tags(run) == {f"multi_scale/{name}" for name in ALONE | CHANGES}
    for name in ALONE:
        assert len(run.curve(f"multi_scale/{name}")) == 3
    for name in CHANGES:
        assert [step for step, _ in run.curve(f"multi_scale/{name}")] == [3, 7]
    assert run.curve("zz_convscope/errors")[-1][1] == 0
    pictures = [tag for tag in run.events.Tags()["images"] if tag.startswith("multi_scale/image/")]
    assert len(pictures) == 3
    heights = [event.height for event in run.events.Images(pictures[0])]
    assert np.diff(heights).tolist() == [82, 82]  # a row per check


def test_the_record_has_the_importances(fit: Fit) -> None:
    callback = small()
    run = fit([callback])
    record = read_run(run.trainer.logger.log_dir)
    for name, expected in (("coarse", (3, 4)), ("fine", (3, 16)), ("classes", (3,)), ("probability", (3,))):
        assert record.array("multi_scale", name).shape == expected
    np.testing.assert_array_equal(record.array("multi_scale", "fine"), callback._rows[-1].fine.numpy())
    assert record.array("multi_scale", "images").tolist() == sorted(record.array("multi_scale", "images").tolist())


def test_copies_move_the_progress_bar(fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN", 0.0)
    callback, bar = small(heldout=HeldOut(images(12), batch_size=8), every_n_epochs=0), TQDMProgressBar()
    fit([callback, bar], enable_progress_bar=True, num_sanity_val_steps=0, max_epochs=1)
    shown = re.findall(r"convscope, multi_scale: +(\d+)%", capsys.readouterr().out)
    assert len(set(shown)) > 10


def by_hand(net: Any, x: torch.Tensor, y: int, number: int, copies: int) -> MultiScaleFit:
    """The fit of one image, in plain steps, with hooks."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: seen.update({name: output.clone()})

    hooks = [
        net.layer1[0].bn1.register_forward_hook(keep("shallow")),
        net.layer2[0].bn2.register_forward_hook(keep("deep")),
    ]
    found, fill = segment(x, "grid", 4, 16), fill_image(x, "zero")
    on = draw_switches(copies, 16, 0, number)
    with torch.no_grad():
        net(x[None])
        deep, shallow = seen["deep"], seen["shallow"].relu()
        output = net(switched(x, fill, found.fine, on)).softmax(1)[:, y]
    for hook in hooks:
        hook.remove()
    coarse = segment_means(deep.mean(1), found.coarse, 4)[0]
    fine = segment_means(shallow.mean(1), found.fine, 16)[0]
    metric = MultiScaleFit(1, 4, 16)
    metric.describe(0, found.membership, coarse, fine)
    weight = nearness(on, distances(x, fill, found.fine, 16))
    metric.update(0, share_on(on, found.membership) * coarse, on.double() * fine, output, weight)
    return metric


@pytest.mark.parametrize("chunk", [5, 64])
def test_importances_are_those_by_hand_at_any_chunk_size(fit: Fit, chunk: int) -> None:
    x, y = images(21, seed=5)
    callback = small(deep="net.layer2.0.conv2", shallow="net.layer1.0.conv1", on_start=False)
    callback.heldout = HeldOut((x, y), batch_size=chunk)
    run = fit([callback], max_epochs=1)
    net = run.module.net.eval()
    numbers = sorted(callback.heldout.sample(3).index.tolist())
    for place, number in enumerate(numbers):
        expected = by_hand(net, x[number], int(y[number]), number, 24).compute()
        torch.testing.assert_close(callback._rows[-1].coarse[place].double(), expected.coarse[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(callback._rows[-1].fine[place].double(), expected.fine[0], rtol=1e-4, atol=1e-5)


class CornerReader(nn.Module):
    """Its class is whether the lower right quarter is bright, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)
        for conv in (self.conv1, self.conv2):
            nn.init.constant_(conv.weight, 0.3)
            nn.init.constant_(conv.bias, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = torch.relu(self.conv2(torch.relu(self.conv1(x))))[:, :1, 4:, 4:].mean((2, 3))
        return torch.cat([-bright, 4 * bright - 3, torch.full_like(bright, -9.0)], 1)


def test_the_one_region_that_decides_is_found_and_switching_it_off_shows_it(fit: Fit) -> None:
    x = 0.2 * torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, 4:, 4:] += 2
    heldout = HeldOut((x, torch.ones(12, dtype=torch.long)), batch_size=16)
    callback = small(heldout=heldout, samples=64, every_n_epochs=0, shallow="net.conv1")
    run = fit([callback], module=Classifier(CornerReader(), lr=0.0), max_epochs=1)
    (row,) = callback._rows
    assert row.coarse.argmax(1).tolist() == [3, 3, 3]
    assert (row.coarse[:, :3].abs() < 0.05 * row.coarse[:, 3:]).all()
    quarters = segment(x[0], "grid", 4, 16).membership[:, 3] > 0
    assert (row.fine[:, quarters].sum(1) > 0.95 * row.fine.abs().sum(1)).all()
    assert run.curve("multi_scale/r2_fine")[-1][1] > 0.5
    assert run.curve("multi_scale/deletion_gain")[-1][1] > 0.1
    assert run.curve("multi_scale/focus")[-1][1] >= 1 / 16
    assert run.curve("multi_scale/constraint_residual")[-1][1] < 1e-6


def test_layers_by_default_and_by_name(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit([small()], max_epochs=1)
        fit([small(deep="net.layer1*")], max_epochs=1)
        fit([small(shallow="net.conv1", images=2, samples=8)], max_epochs=1)
    said = [message for message in caplog.messages if "explains" in message]
    assert "3 images by 65 copies each per check, 4 coarse super-pixels at net.layer2.0.conv2" in said[0]
    assert said[0].endswith("16 fine ones at net.layer1.0.conv2")
    assert "at net.layer1.0.conv2 and 16 fine ones at net.layer1.0.conv1" in said[1]
    assert said[2].startswith("convscope: multi_scale explains 2 images by 49 copies")
    assert said[2].endswith("at net.conv1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deep": "net.none"}, "'net.none' matches no layer"),
        ({"deep": "net.fc"}, r"deep='net.fc': no layer of that name has a map"),
        ({"deep": "net.conv1", "shallow": "net.layer2.0.conv2"}, "runs after the deep layer"),
        ({"coarse": 80, "fine": 90}, "the number of pixels"),
    ],
)
def test_mistakes_are_found_before_training(fit: Fit, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit([small(**arguments)], max_epochs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images=0: give a whole number of held-out images, at least 1"),
        ({"samples": 1}, "samples=1: give a whole number of copies, at least 2"),
        ({"target": "class"}, "target='class': give 'label', 'predicted' or the number of a class, from 0"),
        ({"segments": "felzenszwalb"}, "segments='felzenszwalb': give one of 'grid', 'slic', 'quickshift'"),
        ({"fill": "noise"}, "fill='noise': give one of 'zero', 'mean', 'blur'"),
        ({"coarse": 16, "fine": 4}, "fine=4: give a whole number of super-pixels, at least 16, or None for what suits"),
        ({"nonzero": 0}, r"nonzero=0: give a share of the fine super-pixels in \(0, 1\]"),
        ({"balance": 0}, "balance=0: give a finite number, above 0"),
        ({"deep": 3}, "deep=3: give the name of a layer"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        MultiScaleInterpretation(**arguments)


def found_in_one_check(**arguments: Any) -> torch.Tensor:
    """Fine importances without a trainer, of one network."""
    torch.manual_seed(0)
    net, heldout = TinyResNet(4, classes=3).eval(), HeldOut(images(12))
    heldout.prepare()
    callback = small(images=2, heldout=heldout, **arguments)
    plan = make_plan(Subject(net, net, torch.device("cpu")), heldout, [callback])
    run_pass(plan, [callback], Failures(raising=True), lambda value: [value])
    callback.summarise({})
    callback.remember(Findings(callback.name), Moment("start", 0, 0))
    return callback._rows[0].fine


def test_parameters_change_what_is_found() -> None:
    usual = found_in_one_check()
    assert torch.equal(usual, found_in_one_check())
    for other in ({"fill": "mean"}, {"fill": "blur"}, {"balance": 9.0}, {"nonzero": 1.0}, {"samples": 25}):
        assert not torch.equal(usual, found_in_one_check(**other)), other
    assert found_in_one_check(fine=4).shape == (2, 4)
    assert found_in_one_check(coarse=16).shape == (2, 16)


def test_super_pixels_by_colour(fit: Fit) -> None:
    pytest.importorskip("skimage")
    callback = small(segments="slic", images=2, every_n_epochs=0)
    x, y = images(12, side=24)
    fit([callback], data=(loaders()[0], DataLoader(TensorDataset(x, y), 8)))
    assert callback._rows[0].fine.shape[0] == 2


@pytest.mark.parametrize("network", [awkward.TestTimeCalls, awkward.MemoryBank, awkward.WritesIntoInput])
def test_a_network_that_remembers_gives_the_same_at_any_chunk_size(fit: Fit, network: Any) -> None:
    def found(chunk: int) -> Any:
        torch.manual_seed(0)
        callback = small(every_n_epochs=0, images=2, heldout=HeldOut(images(9, 4), batch_size=chunk))
        run = fit([callback], module=Classifier(network(), lr=0.0), max_epochs=1)
        assert tags(run)
        return callback._rows[0].fine

    torch.testing.assert_close(found(5), found(64), rtol=1e-4, atol=1e-6)


class BatchHead(TinyResNet):
    """Logits relative to those of the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        return 5 * (found - found.mean(0))


class Forgetful(awkward.Base):
    """Its logits rise from call to call, by what it keeps in a plain attribute."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += not self.training
        return super().forward(x) * (1 + 0.5 * self.calls)


def test_what_a_pass_leaves_behind_does_not_reach_the_next_one(fit: Fit) -> None:
    torch.manual_seed(0)
    module = Classifier(Forgetful(), lr=0.0)
    callback = small(every_n_epochs=0, images=2, heldout=HeldOut(images(9, 4), batch_size=8))
    fit([callback], module=module, num_sanity_val_steps=0, limit_val_batches=0, max_epochs=1)
    assert module.net.calls == 0
    x, y = images(9, 4)
    number = sorted(callback.heldout.sample(2).index.tolist())[0]
    module.net.calls = 0
    with torch.no_grad():
        expected = module.net.eval()(x[number : number + 1]).softmax(1)[0, int(y[number])]
    assert float(callback._rows[0].probability[0]) == pytest.approx(float(expected), abs=1e-5)


def test_a_network_that_looks_at_its_batch_is_not_explained(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    run = fit([small(on_error="warn")], module=Classifier(BatchHead(4, classes=3)), max_epochs=1)
    assert "depends on its batch or on chance" in caplog.text
    assert tags(run) == set()
    assert run.trainer.current_epoch == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda x, y: (x, x.mean((2, 3))), "predicts quantities, and the probability of a class is needed"),
        (lambda x, y: (x, (torch.stack([y, y > 0, y < 2], 1) > 0).float()), "a sample has several labels; target="),
        (lambda x, y: x, "there are no labels; MultiScaleInterpretation(target='predicted') needs none"),
        (lambda x, y: (x[..., :3], y), "too small for two scales"),
    ],
)
def test_it_is_inactive_with_one_sentence_where_there_is_nothing_to_explain(
    fit: Fit, caplog: pytest.LogCaptureFixture, data: Any, message: str
) -> None:
    with caplog.at_level("INFO"):
        run = fit([small(heldout=HeldOut(data(*images(12)), logits=lambda output: output))], max_epochs=1)
    assert message in caplog.text
    assert tags(run) == set()


def test_images_whose_label_is_ignored_are_left_out(fit: Fit) -> None:
    x, y = images(12)
    callback = small(heldout=HeldOut((x, torch.where(torch.arange(12) % 2 == 0, -100, y))), images=12, samples=8)
    fit([callback], max_epochs=1)
    row = callback._rows[-1]
    assert (row.chosen >= 0).sum() == 6
    assert row.fine[row.chosen < 0].abs().max() == 0
    every = small(heldout=callback.heldout, images=12, samples=8, target="predicted")
    fit([every], max_epochs=1)
    assert (every._rows[-1].chosen >= 0).all()


def test_a_resumed_run_goes_on_where_it_was(fit: Fit, tmp_path: Any) -> None:
    def run(epochs: int, path: Any = None) -> Any:
        torch.manual_seed(0)
        callback = small(images=2)
        module = Classifier(Plain(channels=3))  # without dropout: a resumed run draws other numbers
        keep = ModelCheckpoint(tmp_path / f"kept{epochs}", save_last=True)
        return callback, fit([callback, keep], module=module, max_epochs=epochs, ckpt_path=path)

    whole, _ = run(3)
    run(2)
    resumed, _ = run(3, tmp_path / "kept2" / "last.ckpt")
    assert [row.when for row in resumed._rows] == ["before training", "epoch 0", "epoch 1", "epoch 2"]
    torch.testing.assert_close(resumed._rows[-1].fine, whole._rows[-1].fine, rtol=0, atol=1e-5)


class Summed(Classifier):
    """A classifier of samples with several labels each."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


@pytest.mark.parametrize("labels", ["several", "none"])
def test_a_class_may_be_named_where_there_is_no_label_of_one(fit: Fit, labels: str) -> None:
    x, y = images(12)
    many = (torch.stack([y, y > 0, y < 2], 1) > 0).float()
    heldout = HeldOut((x, many) if labels == "several" else x, logits=lambda output: output)
    callback = small(heldout=heldout, target=2, on_start=False)
    module = Summed(lr=0.0) if labels == "several" else Classifier(lr=0.0)
    targets = many if labels == "several" else y
    fit([callback], module=module, data=(DataLoader(TensorDataset(x, targets), 6),) * 2, max_epochs=1)
    (row,) = callback._rows
    assert row.chosen.tolist() == [2, 2, 2]
    numbers = sorted(callback.heldout.sample(3).index.tolist())
    with torch.no_grad():
        logits = module.net.eval()(x[numbers])
    expected = logits.sigmoid() if labels == "several" else logits.softmax(1)
    torch.testing.assert_close(row.probability.float(), expected[:, 2], rtol=0, atol=1e-4)
