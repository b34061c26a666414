"""InputResampling in a real fit: planted filters, numbers by hand, chunks, ranks, resume, and what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

import convscope
from convscope import FilterImportance, HeldOut, InputResampling
from convscope.callbacks.parts.perturbed_copies import PerturbedCopies, choose_images
from convscope.capture.data.processes import Processes
from convscope.capture.outputs.choice import Outputs
from convscope.explainers.perturbations import GrowingNoise, perturb
from convscope.metrics.functional import ResamplingScores
from tests.callbacks.conftest import Classifier, loaders
from tests.capture.test_isolation import same, snapshot
from tests.networks import TinyResNet, images
from tests.support.spies import watch

Fit = Callable[..., Any]
LAYER = "net.layer2.0.conv1"
UNITS = ["net.conv1", "net.layer1.0.conv1"]


def once(**arguments: Any) -> InputResampling:
    """A few images, one check before training, errors let through."""
    small = {"images": 4, "perturbations": 8, "every_n_epochs": 0, "on_error": "raise", "top": 2}
    return InputResampling(**{**small, **arguments})


class Keeps(InputResampling):
    """Scores of every layer on every image, as the callback saw them."""

    def compute(self, layer: Any) -> Any:
        found = super().compute(layer)
        if not layer.is_output:
            kept = self.__dict__.setdefault("scores", {})
            kept[layer.name] = self._scores.of(layer)
        return found


def scores_of(callback: Keeps, layer: str) -> ResamplingScores:
    return callback.scores[layer]


def quick(fit: Fit, callbacks: list[Any], **arguments: Any) -> Any:
    return fit(callbacks, **{"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, **arguments})


# The numbers.


def test_scores_and_overlap_are_those_of_the_whole_stack_by_hand(fit: Fit) -> None:
    callback = Keeps(images=3, perturbations=7, every_n_epochs=0, top=2, layers=UNITS, on_error="raise")
    module = Classifier(TinyResNet(6, classes=3))
    module.net.eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    run = quick(fit, [callback], module=module)
    net = TinyResNet(6, classes=3).eval()
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
    x, y = images(30, seed=1)
    heldout = HeldOut((x, y))
    heldout.prepare()
    numbers = [image.number for image in choose_images(heldout, settled(), 3)[0]]
    shares = []
    for place, number in enumerate(numbers):
        copies = perturb(x[number], GrowingNoise(), range(7), 7, 0, number)
        with torch.no_grad():
            a = F.relu(net.bn1(net.conv1(copies))).double().numpy()
            p = net(copies).softmax(1)[:, y[number]].double().numpy()
        by_filter = a.reshape(7, 6, -1)
        with np.errstate(invalid="ignore"):
            pearson = [
                np.nanmean(
                    [abs(stats.pearsonr(column, p)[0]) if np.ptp(column) else np.nan for column in by_filter[:, c].T]
                )
                for c in range(6)
            ]
        found = scores_of(callback, "net.conv1")
        np.testing.assert_allclose(found.influence[place], pearson, atol=1e-5)
        variance = by_filter.var(0).mean(1)
        np.testing.assert_allclose(found.variance[place], variance, rtol=1e-5)
        precise = [c for c in np.argsort(-1 / variance, kind="stable") if by_filter[:, c].mean() >= 0.1][:2]
        influential = list(np.argsort(-np.array(pearson), kind="stable")[:2])
        shares.append(len(set(precise) & set(influential)) / (len(precise) + 2))
    assert run.curve("resampling/overlap/net.conv1")[0][1] == pytest.approx(np.mean(shares), abs=1e-6)


def settled() -> Outputs:
    return Outputs(shape=(3,), returned=(3,), task="classes")


class Planted(nn.Module):
    """Eight filters: one alone drives the output, one ignores its input, one amplifies pixel noise."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        self.driver, self.deaf, self.noise = torch.randperm(8, generator=generator)[:3].tolist()
        edges = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 8.0, -1.0], [-1.0, -1.0, -1.0]])
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(8, 3, 3, 3, generator=generator))
            self.conv.bias.fill_(0.5)
            self.conv.weight[self.deaf] = 0.0
            self.conv.weight[self.driver] = 0.3  # the local mean of all channels
            self.conv.weight[self.noise] = 2 * edges
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[0, self.driver] = 3.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


def test_planted_filters_are_found_in_19_of_20_seeds(fit: Fit) -> None:
    driver, deaf, noise = 0, 0, 0
    for seed in range(20):
        callback = Keeps(images=4, perturbations=20, every_n_epochs=0, target=0, top=2, strength=0.02, pictures=False)
        module = Classifier(Planted(seed))
        fit([callback], module=module, logger=False, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
        scores, net = scores_of(callback, "net.conv"), module.net
        influence, precision = scores.influence.nanmean(0).nan_to_num(0), scores.precision
        driver += int(influence.argmax()) == net.driver
        deaf += bool((precision[:, net.deaf] == torch.inf).all())
        noise += bool((precision.nan_to_num(torch.inf).argmin(1) == net.noise).all())
        assert int((scores.variance.mean(0) == 0).sum()) == 1  # no other filter stays put
    assert min(driver, deaf, noise) >= 19


def test_rescaled_filters_keep_the_relative_precision_alone(fit: Fit) -> None:
    torch.manual_seed(0)
    module = Classifier(TinyResNet(6, classes=3))
    for factor in (1.0, 4.0):
        with torch.no_grad():
            module.net.bn1.weight.fill_(factor)
            module.net.bn1.bias.fill_(0.3 * factor)
            module.net.layer1[0].conv1.weight.mul_(1 / factor)
        callback = Keeps(images=3, perturbations=6, every_n_epochs=0, layers="net.conv1", on_error="raise")
        start = {name: value.clone() for name, value in module.state_dict().items()}
        quick(fit, [callback], module=module, logger=False)
        module.load_state_dict(start)
        if factor == 1.0:
            before = scores_of(callback, "net.conv1")
    after = scores_of(callback, "net.conv1")
    known = (before.mean > 0.1) & (before.variance > 0)
    torch.testing.assert_close(after.relative_precision[known], before.relative_precision[known], rtol=1e-4, atol=0)
    torch.testing.assert_close(after.precision[known], before.precision[known] / 16, rtol=1e-4, atol=0)


def test_influence_is_compared_with_taylor_importance_where_that_is_there(fit: Fit) -> None:
    run = quick(fit, [once(layers=UNITS), FilterImportance(layers=UNITS)])
    assert -1 <= run.curve("resampling/spearman_taylor/net.conv1")[0][1] <= 1
    alone = quick(fit, [once(layers=UNITS), FilterImportance(layers=UNITS, criterion="weight_l1")])
    assert not any("spearman" in tag for tag in alone.events.Tags()["scalars"])


# What is written.


def test_every_documented_tag_and_picture_is_written_and_no_other(fit: Fit) -> None:
    run = quick(fit, [once(layers=UNITS)])
    per_layer = ["overlap", "jaccard", "overlap_chance", "influence_top_share", "precision_median"]
    summary = ["overlap", "jaccard", "overlap_chance", "jaccard_chance", "above_chance", "overlap_of_means"]
    expected = {f"resampling/{name}/{layer}" for name in per_layer for layer in UNITS}
    expected |= {f"resampling/{name}" for name in summary}
    tags = run.events.Tags()
    assert {tag for tag in tags["scalars"] if tag.startswith("resampling/")} == expected
    pictures = {tag for tag in tags["images"] if tag.startswith("resampling/")}
    assert {"resampling/over_training", *(f"resampling/scatter/{layer}" for layer in UNITS)} <= pictures
    assert sum(tag.startswith("resampling/example/") for tag in pictures) == 3
    assert run.curve("zz_convscope/errors")[0][1] == 0


def test_the_summary_is_one_overlap_over_all_layers(fit: Fit) -> None:
    callback = Keeps(images=2, perturbations=6, every_n_epochs=0, top=3, layers=UNITS, on_error="raise")
    run = quick(fit, [callback], module=Classifier(TinyResNet(8, classes=3)))
    found = []
    for image in range(2):
        shared = sizes = 0
        for layer in UNITS:
            influence, precision = (
                scores_of(callback, layer).influence[image],
                scores_of(callback, layer).precision[image],
            )
            tops = [
                set(v.nan_to_num(-1).argsort(descending=True, stable=True)[:3].tolist()) for v in (influence, precision)
            ]
            tops = [
                top - set(v.isnan().nonzero().flatten().tolist())
                for top, v in zip(tops, (influence, precision), strict=True)
            ]
            shared, sizes = shared + len(tops[0] & tops[1]), sizes + len(tops[0]) + len(tops[1])
        found.append(shared / sizes)
    assert run.curve("resampling/overlap")[0][1] == pytest.approx(np.mean(found), abs=1e-6)


@pytest.mark.parametrize("pictures", [True, False])
def test_one_pass_of_copies_and_none_of_the_held_out_set(fit: Fit, pictures: bool) -> None:
    module = Classifier()
    forwards = watch(module.net.fc, lambda net, args, out: None if net.training else len(out))
    callback = once(images=4, perturbations=8, pictures=pictures)
    quick(fit, [callback], module=module, limit_val_batches=0)
    # Planning tries a few samples, at most eight passes of one to eight; then each image's copies are one chunk.
    assert forwards[-4:] == [8] * 4
    assert sum(forwards) - 32 < 30


def test_the_budget_holds_and_is_said(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    callback = once(images=6, perturbations=8, max_forwards=17)
    with caplog.at_level(logging.INFO):
        quick(fit, [callback], logger=False)
    assert "runs 16 perturbed copies of 2 images per check (max_forwards=17; 6 images would take 48)" in caplog.text


# The same number everywhere.


def test_any_chunk_gives_the_same(fit: Fit) -> None:
    found = []
    for size in (1, 3, 128):
        torch.manual_seed(4)
        heldout = HeldOut(images(30, seed=1), batch_size=size)
        callback = Keeps(images=3, perturbations=7, every_n_epochs=0, heldout=heldout, layers=UNITS, on_error="raise")
        quick(fit, [callback], module=Classifier(), logger=False)
        found.append(callback)
    for other in found[1:]:
        for layer in UNITS:
            expected = scores_of(found[0], layer)
            for one, two in zip(scores_of(other, layer), expected, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_shares_of_processes_are_the_copies_of_one_each_in_as_many_chunks() -> None:
    heldout = HeldOut(images(20, seed=1), size=20)
    heldout.prepare()
    chosen = choose_images(heldout, settled(), 5)[0]
    whole = PerturbedCopies(heldout, chosen, GrowingNoise(), 7)
    copies = {int(c.index[0]): [] for c in whole.chunks()}
    for chunk in whole.chunks(7):
        copies[int(chunk.index[0])] = chunk.inputs
    seen: dict[int, list[torch.Tensor]] = {}
    lengths = []
    for rank in range(2):
        heldout._processes = Processes(rank, 2)
        mine = list(PerturbedCopies(heldout, chosen, GrowingNoise(), 7).chunks(3))
        lengths.append(len(mine))
        for chunk in mine:
            if not chunk.padding:
                seen.setdefault(int(chunk.index[0]), []).append(chunk.inputs)
    assert lengths == [9, 9]
    assert seen.keys() == copies.keys() == {image.number for image in chosen}
    assert all(torch.equal(torch.cat(parts), copies[number]) for number, parts in seen.items())


def test_images_keep_class_shares_and_differ_where_there_are_more_classes_than_images() -> None:
    x, _ = images(40, seed=1)
    for labels, count, expected in (
        (torch.arange(40) % 4, 8, [2, 2, 2, 2]),
        ((torch.arange(40) >= 30).long(), 8, [6, 2]),
        (torch.arange(40), 8, [1] * 8),
    ):
        heldout = HeldOut((x, labels))
        heldout.prepare()
        outputs = Outputs(shape=(40,), returned=(40,), task="classes")
        chosen = choose_images(heldout, outputs, count)[0]
        assert torch.tensor([image.label for image in chosen]).unique(return_counts=True)[1].tolist() == expected
        assert all(
            image.label == labels[image.number] and torch.equal(image.image, x[image.number]) for image in chosen
        )


def test_noise_is_the_same_at_every_check_and_after_a_resume(fit: Fit, tmp_path: Path) -> None:
    class Frozen(Classifier):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    torch.manual_seed(0)
    module = Frozen()
    module.net.eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    arguments = {"images": 3, "perturbations": 6, "every_n_epochs": 1, "top": 2, "layers": UNITS, "on_error": "raise"}
    saver = L.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    run = fit([InputResampling(**arguments), saver], module=module, max_epochs=2)
    values = [value for _, value in run.curve("resampling/precision_median/net.conv1")]
    assert len(values) == 3
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)
    callback = InputResampling(**arguments)
    resumed = fit([callback], module=module, max_epochs=3, ckpt_path=saver.last_model_path)
    assert resumed.curve("resampling/precision_median/net.conv1")[-1][1] == pytest.approx(values[0], rel=1e-6)
    assert callback._pictures.state()["epochs"] == [0.0, 1.0, 2.0, 3.0]
    assert len(callback.history.rows) == 4


def test_training_is_bit_for_bit_the_same(tmp_path: Path) -> None:
    def train(callbacks: list[Any]) -> dict[str, Any]:
        L.seed_everything(3, verbose=False)
        module = Classifier()
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = L.Trainer(max_epochs=2, accelerator="cpu", callbacks=callbacks, default_root_dir=tmp_path, **quiet)
        trainer.fit(module, *loaders())
        return {**snapshot(module), "random": torch.get_rng_state(), "numpy": np.random.get_state()[1].tolist()}

    without = train([])
    callback = once(every_n_epochs=1)
    watched = train([callback])
    assert len(callback.history.rows) == 3
    assert [key for key in without if not same(without[key], watched[key])] == []


# Targets and inputs.


@pytest.mark.parametrize("target", ["label", "predicted", 2])
def test_the_class_that_influence_is_on(fit: Fit, target: Any) -> None:
    module = Classifier()
    callback = Keeps(images=3, perturbations=6, every_n_epochs=0, target=target, layers=UNITS, on_error="raise")
    quick(fit, [callback], module=module, logger=False)
    assert scores_of(callback, "net.conv1").influence.isfinite().any()


def test_without_labels_the_predicted_class_will_do(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    heldout = HeldOut(images(20, seed=1)[0], logits=lambda out: out)
    with caplog.at_level(logging.INFO):
        quick(fit, [once(heldout=heldout, name="asks"), once(heldout=heldout, target="predicted")], logger=False)
    assert "asks is skipped: there are no labels; InputResampling(target='predicted') needs none" in caplog.text
    assert "resampling runs 32 perturbed copies" in caplog.text


def test_a_single_logit_and_several_labels(fit: Fit) -> None:
    x, y = images(20, seed=1)

    class Binary(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self(batch[0]).sum() * 0

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    for labels, outputs, target in (((y > 0).long(), 1, "label"), ((y > 0).long(), 1, 0), (F.one_hot(y, 3) | 1, 3, 1)):
        marks = labels.float() if labels.dim() > 1 else labels
        if labels.dim() > 1:
            marks[::2, 0] = 0
        heldout = HeldOut((x, marks))
        callback = Keeps(images=3, perturbations=6, every_n_epochs=0, target=target, heldout=heldout, on_error="raise")
        quick(fit, [callback], module=Binary(TinyResNet(4, classes=outputs)), logger=False)
        assert scores_of(callback, "net.conv1").influence.isfinite().any()


def test_normalisation_moves_the_noise_to_the_pixels(fit: Fit) -> None:
    pixels, labels = images(20, seed=1)
    pixels = pixels.sigmoid()
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    shaped = [torch.tensor(part).view(3, 1, 1) for part in (mean, std)]
    heldout = HeldOut(((pixels - shaped[0]) / shaped[1], labels))
    heldout.prepare()
    chosen = choose_images(heldout, settled(), 2)[0]
    found = PerturbedCopies(heldout, chosen, GrowingNoise(), 5, (mean, std)).of(chosen[0], range(5))
    raw = perturb(pixels[chosen[0].number], GrowingNoise(), range(5), 5, 0, chosen[0].number)
    torch.testing.assert_close(found * shaped[1] + shaped[0], raw, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[0], chosen[0].image)


def test_where_the_noise_is_applied_is_said_for_negative_inputs(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    said = "multiplies the inputs as the network gets them, which are negative in places"
    with caplog.at_level(logging.INFO):
        quick(fit, [once()], logger=False)
    assert said in caplog.text
    caplog.clear()
    x, y = images(20, seed=1)
    with caplog.at_level(logging.INFO):
        quick(fit, [once(heldout=HeldOut((x.sigmoid(), y)))], logger=False)
    assert said not in caplog.text


def test_named_inputs_and_grey_images(fit: Fit) -> None:
    x, y = images(20, channels=1, seed=1)

    class Two(Classifier):
        def forward(self, pixels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.net(pixels) * scale[:, None]

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.net(batch[0].mean(1, keepdim=True)).sum() * 0

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    heldout = HeldOut(
        torch.utils.data.TensorDataset(x, torch.ones(20), y),
        adapter=lambda batch: ({"scale": batch[1], "pixels": batch[0]}, batch[2]),
    )
    callback = Keeps(images=3, perturbations=6, every_n_epochs=0, heldout=heldout, on_error="raise")
    quick(fit, [callback], module=Two(TinyResNet(4, classes=3, channels=1)))
    assert scores_of(callback, "net.conv1").influence.shape == (3, 4)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (lambda x: (x * 50).to(torch.uint8), "are torch.uint8, which take no noise"),
        (lambda x: torch.ones_like(x), "none of the held-out images can be perturbed: 20 have one value everywhere"),
    ],
)
def test_images_that_cannot_be_perturbed_leave_the_callback_out(
    fit: Fit, caplog: pytest.LogCaptureFixture, inputs: Callable[[torch.Tensor], torch.Tensor], reason: str
) -> None:
    class Floats(Classifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x.float())

    x, y = images(20, seed=1)
    heldout = HeldOut((inputs(x), y))
    with caplog.at_level(logging.INFO):
        run = quick(fit, [once(heldout=heldout), convscope.FilterCorrelation(heldout=heldout)], module=Floats())
    assert reason in caplog.text
    assert run.curve("zz_convscope/errors")[-1][1] == 0
    assert "correlation/mean_abs/net.conv1" in run.events.Tags()["scalars"]


def test_a_constant_image_is_left_out_and_said(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    x, y = images(20, seed=1)
    x[:4] = 0.7
    with caplog.at_level(logging.INFO):
        quick(fit, [once(heldout=HeldOut((x, y)), images=20, max_forwards=400)], logger=False)
    assert "leaves out 4 held-out images that have one value everywhere" in caplog.text
    assert "of 16 images" in caplog.text


def test_a_layer_with_no_more_filters_than_are_chosen_has_no_overlap(
    fit: Fit, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run = quick(fit, [once(top=4, layers=["net.conv1", LAYER])])
    tags = run.events.Tags()["scalars"]
    assert f"resampling/overlap/{LAYER}" in tags
    assert "resampling/overlap/net.conv1" not in tags
    assert "resampling/precision_median/net.conv1" in tags
    assert "no overlap in net.conv1, which have no more than top=4 filters" in caplog.text


def test_dense_outputs_and_quantities_are_left_out_with_a_sentence(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    x, y = images(20, seed=1)

    class Any_(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self(batch[0]).sum() * 0

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    with caplog.at_level(logging.INFO):
        quick(fit, [once(heldout=HeldOut((x, y.float() + 0.5)))], module=Any_(TinyResNet(4, classes=1)), logger=False)
    assert "the model predicts quantities" in caplog.text
    caplog.clear()
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    heldout = HeldOut((x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()))
    with caplog.at_level(logging.INFO):
        quick(fit, [once(heldout=heldout)], module=Any_(dense), logger=False)
    assert "the model predicts a class for each position" in caplog.text


# What fails.


def test_a_layer_that_fails_costs_that_layer_alone(fit: Fit) -> None:
    class Spoilt(InputResampling):
        def compute(self, layer: Any) -> Any:
            if layer.name == "net.conv1":
                raise RuntimeError("boom")
            return super().compute(layer)

    run = quick(fit, [Spoilt(images=3, perturbations=6, every_n_epochs=0, top=2, layers=UNITS)])
    tags = run.events.Tags()["scalars"]
    assert "resampling/overlap/net.layer1.0.conv1" in tags
    assert "resampling/overlap/net.conv1" not in tags
    assert "resampling/overlap" in tags
    assert run.curve("zz_convscope/errors")[0][1] == 1


def test_sums_that_fail_cost_their_layer_alone(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    from convscope.callbacks.parts import copy_scores

    class Picky(copy_scores.ImageResampling):
        def update(self, activation: torch.Tensor, output: torch.Tensor) -> None:
            if activation.shape[-1] == 4:
                raise RuntimeError("boom")
            super().update(activation, output)

    monkeypatch.setattr(copy_scores, "ImageResampling", Picky)
    run = quick(fit, [InputResampling(images=3, perturbations=6, every_n_epochs=0, top=2, layers=["net.conv1", LAYER])])
    tags = run.events.Tags()["scalars"]
    assert "resampling/overlap/net.conv1" in tags
    assert f"resampling/overlap/{LAYER}" not in tags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"perturbation": lambda x, i, n, g: x[:1]}, "returned \\(1, 8, 8\\) for copy 1"),
        ({"perturbation": lambda x: x}, "perturbation failed \\(TypeError"),
        ({"perturbation": lambda x, i, n, g: x * float("nan")}, "NaN or infinite values"),
        ({"target": 3}, "target=3: give a class from 0 to 2, 'label' or 'predicted'"),
        ({"normalisation": ([0.5, 0.5], [1.0, 1.0])}, "give a number for each of 3 channels"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(fit: Fit, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        quick(fit, [InputResampling(**{"images": 3, "perturbations": 6, **arguments})], logger=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images=0: give a whole number of images, at least 1"),
        ({"perturbations": 1}, "perturbations=1: give a whole number of copies, at least 2"),
        ({"perturbation": "salt"}, "perturbation='salt': give one of 'growing_noise'"),
        ({"strength": 0}, "strength=0: give a number, above 0"),
        ({"strength": 2, "perturbation": "occlusion"}, r"strength=2: give a share of the image's side in \(0, 1\]"),
        (
            {"strength": 1.0, "perturbation": lambda x, i, n, g: x},
            "strength=1.0: give None with a function of your own",
        ),
        ({"target": "truth"}, "target='truth': give 'label', 'predicted' or the number of a class"),
        ({"target": -1}, "target=-1"),
        ({"target": True}, "target=True"),
        ({"top": 0}, "top=0: give a whole number of filters, at least 1"),
        ({"precision": "raw"}, "precision='raw': give one of 'paper', 'relative'"),
        ({"normalisation": 3}, r"normalisation=3: give \(mean, std\)"),
        ({"normalisation": ([0.5], [0.0])}, "normalisation std="),
        ({"examples": -1}, "examples=-1: give a whole number of images, at least 1, or 0 for no pictures"),
        ({"max_forwards": 20}, "max_forwards=20: give a whole number of copies, at least 50"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputResampling(**arguments)


def test_in_the_full_suite_every_fifth_epoch() -> None:
    (callback,) = [one for one in convscope.suite("full") if isinstance(one, InputResampling)]
    assert callback.schedule.every_n_epochs == 5
