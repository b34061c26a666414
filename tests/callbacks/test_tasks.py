"""Every task that a user may train for: what is logged, compared with scikit-learn, and what is skipped and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import average_precision_score, jaccard_score, r2_score
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.metrics.functional.folds import partners
from convscope.metrics.functional.ridge import DEFAULT_ALPHAS
from tests.callbacks.conftest import Classifier, Run
from tests.networks import TinyResNet, images

X, Y = images(30)
SIZE = X.mean((1, 2, 3))


class Task(Classifier):
    """A user's module with a loss of its own."""

    def __init__(self, net: nn.Module, loss: Callable[..., torch.Tensor], lr: float = 0.01) -> None:
        super().__init__(net, lr=lr)
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))


class Features(convscope.LayerProbe):
    """Keeps the pooled features and targets that the probe was given at the latest check."""

    def begin(self, layers: Any, samples: int) -> None:
        self.seen: dict[str, list[Any]] = {layer.name: [] for layer in layers}
        super().begin(layers, samples)

    def on_activation(self, record: Any) -> None:
        self.seen[record.layer.name].append((record.pooled.clone(), record.activation.clone()))
        super().on_activation(record)


def both(*tensors: torch.Tensor) -> tuple[DataLoader, DataLoader]:
    return DataLoader(TensorDataset(*tensors), 8), DataLoader(TensorDataset(*tensors), 8)


def tags(run: Run) -> list[str]:
    return run.events.Tags()["scalars"]


def refitted(features: torch.Tensor, targets: np.ndarray) -> np.ndarray:
    """Ridge fitted anew without each sample, its penalty chosen by scikit-learn."""
    x = StandardScaler().fit_transform(features.double().numpy())
    alpha = RidgeCV(alphas=DEFAULT_ALPHAS).fit(x, targets).alpha_
    return cross_val_predict(Ridge(alpha=alpha), x, targets, cv=LeaveOneOut())


def test_binary_with_one_logit_and_float_targets(fit: Any) -> None:
    """The custom of ``BCEWithLogitsLoss``; ``squeeze()`` leaves no axis where one sample is traced."""

    class OneLogit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = TinyResNet(4, classes=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).squeeze()

    truth = (Y > 0).float()
    callbacks = [*convscope.suite("standard"), convscope.LayerPrediction(examples=0)]
    run = fit(callbacks, Task(OneLogit(), F.binary_cross_entropy_with_logits), both(X, truth), max_epochs=1)
    assert run.curve("zz_convscope/errors")[-1][1] == 0
    assert run.curve("probe/chance")[-1][1] == pytest.approx(20 / 30)
    assert "probe/accuracy/output" in tags(run)
    assert "importance/gini/net.inner.conv1" in tags(run)
    assert "prediction/true_probability/output" in tags(run)


@pytest.mark.parametrize("shape", ["floats (N, 1)", "integers (N, 1)", "one-hot floats", "one-hot integers"])
def test_other_shapes_of_classes_are_the_same_classes(fit: Any, shape: str) -> None:
    binary = Y > 0
    targets = {
        "floats (N, 1)": binary.float()[:, None],
        "integers (N, 1)": binary.long()[:, None],
        "one-hot floats": F.one_hot(binary.long()).float(),
        "one-hot integers": F.one_hot(binary.long()),
    }[shape]
    found = []
    for target in (targets, binary.long()):
        torch.manual_seed(0)
        probe = convscope.LayerProbe(heldout=convscope.HeldOut((X, target)), every_n_epochs=5, curves="all")
        run = fit([probe], Classifier(), max_epochs=1)
        found.append([run.curve(f"probe/{q}/net.layer1.0.conv2") for q in ("accuracy", "selectivity")])
    assert found[0] == found[1]


def test_multilabel_is_the_mean_average_precision_of_a_ridge_refitted_without_pairs(fit: Any) -> None:
    labels = torch.stack([SIZE.gt(SIZE.median()), X[:, 1].mean((1, 2)) > 0, Y == 1], 1).float()
    probe = Features(on_error="raise", every_n_epochs=9)
    net = TinyResNet(4, classes=3)
    run = fit([probe, convscope.FilterImportance()], Task(net, F.binary_cross_entropy_with_logits), both(X, labels))
    features = torch.cat([pooled for pooled, _ in probe.seen["net.layer1.0.conv2"]])
    x, truth = StandardScaler().fit_transform(features.double().numpy()), labels.double().numpy()
    alpha, partner = RidgeCV(alphas=DEFAULT_ALPHAS).fit(x, truth).alpha_, partners(labels.bool()).numpy()
    scores = np.zeros_like(truth)
    for i, k in np.ndindex(*truth.shape):
        kept = np.delete(np.arange(30), [i, partner[i, k]])
        scores[i, k] = Ridge(alpha=alpha).fit(x[kept], truth[kept, k]).predict(x[i : i + 1])[0]
    expected = average_precision_score(labels, scores)
    assert run.curve("probe/mean_average_precision/net.layer1.0.conv2")[0][1] == pytest.approx(expected, abs=1e-5)
    random = [average_precision_score(labels, np.random.default_rng(s).random((30, 3))) for s in range(400)]
    assert run.curve("probe/chance")[0][1] == pytest.approx(np.mean(random), abs=0.01)
    assert "importance/gini/net.conv1" in tags(run)
    assert not any(tag.startswith("probe/accuracy") for tag in tags(run))


@pytest.mark.parametrize("columns", [1, 2])
def test_regression_is_the_r2_of_a_refitted_ridge(fit: Any, columns: int) -> None:
    targets = torch.stack([100 * SIZE, X[:, 1].mean((1, 2))], 1)[:, :columns]
    targets = targets[:, 0] if columns == 1 else targets
    net = TinyResNet(4, classes=columns)
    probe = Features(on_error="raise", every_n_epochs=9)
    callbacks = [probe, convscope.FilterImportance(), convscope.LayerTable()]
    run = fit(callbacks, Task(net, lambda z, y: F.mse_loss(z.reshape(y.shape), y)), both(X, targets))
    features = torch.cat([pooled for pooled, _ in probe.seen["net.conv1"]])
    standard = StandardScaler().fit_transform(targets.reshape(30, -1).double().numpy())
    expected = r2_score(standard, refitted(features, standard))
    assert run.curve("probe/r2/net.conv1")[0][1] == pytest.approx(expected, abs=1e-5)
    assert run.curve("probe/chance")[0][1] == 0
    assert "importance/gini/net.conv1" in tags(run)
    assert run.events.Images("probe/map/r2")


def test_whole_numbers_can_be_quantities(fit: Any) -> None:
    ages = (10 * SIZE).round().long() - int((10 * SIZE).round().min())
    run = fit([convscope.LayerProbe(task="regression", heldout=convscope.HeldOut((X, ages)), every_n_epochs=9)])
    assert "probe/r2/output" in tags(run)


class Segmenter(nn.Module):
    """Two resolutions and a full-size output."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.pooled = nn.Linear(6, 6)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.head = nn.Conv2d(5, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.down(x))
        x = x + self.pooled(x.mean((2, 3)))[:, :, None, None]
        return self.head(F.relu(self.up(x)))


MASKS = (X[:, 0] > 1).long() + (X[:, 1] > 0.5).long()


def test_segmentation_is_the_iou_of_a_ridge_refitted_without_each_sample(fit: Any) -> None:
    masks = MASKS.clone()
    masks[:, 0] = -100
    heldout = convscope.HeldOut((X, masks), batch_size=7)
    probe = Features(heldout=heldout, max_positions=30 * 64, on_error="raise", every_n_epochs=9)
    importance = convscope.FilterImportance(heldout=heldout)
    module = Task(Segmenter(), lambda z, y: F.cross_entropy(z, y, ignore_index=-100))
    run = fit([probe, importance], module, both(X, masks))
    maps = torch.cat([activation for _, activation in probe.seen["net.down"]])
    rows = F.interpolate(maps, (8, 8), mode="bilinear", align_corners=False).movedim(1, -1).reshape(-1, 6)
    counted = (masks >= 0).flatten()
    x, y = StandardScaler().fit_transform(rows[counted].double().numpy()), masks.flatten()[counted].numpy()
    groups, truth = np.repeat(np.arange(30), 64)[counted], np.eye(3)[y]
    fits = [
        cross_val_predict(Ridge(alpha=alpha), x, truth, groups=groups, cv=LeaveOneGroupOut())
        for alpha in DEFAULT_ALPHAS
    ]
    best = min(fits, key=lambda fit: ((fit - truth) ** 2).sum())
    expected = jaccard_score(y, best.argmax(1), average="macro")
    assert run.curve("probe/miou/net.down")[0][1] == pytest.approx(expected, abs=2e-3)
    assert {"probe/miou/net.up", "probe/miou/output", "probe/pixel_accuracy/output"} <= set(tags(run))
    assert "importance/gini/net.up" in tags(run)


@pytest.mark.parametrize("shape", ["(N, 1, H, W)", "floats (N, H, W)", "one-hot", "bool"])
def test_other_shapes_of_masks_are_the_same_masks(fit: Any, shape: str) -> None:
    binary = MASKS > 0
    targets = {
        "(N, 1, H, W)": binary.long()[:, None],
        "floats (N, H, W)": binary.float(),
        "one-hot": F.one_hot(binary.long()).movedim(-1, 1).float(),
        "bool": binary,
    }[shape]
    found = []
    for target in (targets, binary.long()):
        torch.manual_seed(0)
        probe = convscope.LayerProbe(heldout=convscope.HeldOut((X, target)), every_n_epochs=5, curves="all")
        run = fit([probe], Task(Segmenter(2), F.cross_entropy), both(X, binary.long()), max_epochs=1)
        found.append(run.curve("probe/miou/net.up"))
    assert found[0] == found[1]


def test_max_positions_bounds_what_is_read(fit: Any) -> None:
    sizes = []

    class Counting(convscope.LayerProbe):
        def compute(self, layer: Any) -> Any:
            sizes.append(self._metrics.of(layer).compute().target.numel())
            return super().compute(layer)

    heldout = convscope.HeldOut((X, MASKS))
    module = Task(Segmenter(), F.cross_entropy)
    fit([Counting(heldout=heldout, max_positions=100, every_n_epochs=9)], module, both(X, MASKS))
    assert set(sizes) == {90}  # three of each of the thirty samples


def test_a_layer_without_positions_is_left_out_of_a_segmentation(fit: Any, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        layers = ["net.down", "net.pooled"]
        run = fit([convscope.LayerProbe(layers=layers)], Task(Segmenter(), F.cross_entropy), both(X, MASKS))
    assert any("leaves out layers that it cannot measure: net.pooled" in message for message in caplog.messages)
    assert "probe/miou/net.down" in tags(run)


def test_probes_of_classes_are_skipped_where_there_are_none(fit: Any, caplog: Any) -> None:
    callbacks = [convscope.LayerProbe(probe="knn"), convscope.LayerPrediction(), convscope.FilterCorrelation()]
    with caplog.at_level("INFO"):
        run = fit(callbacks, Task(Segmenter(), F.cross_entropy), both(X, MASKS))
    said = [message for message in caplog.messages if "is skipped" in message]
    assert len(said) == 2
    assert any("probe_knn is skipped: probe='knn' predicts classes, but this is segmentation" in m for m in said)
    assert any("prediction is skipped: its targets (N, 8, 8) of int64 are masks, not class" in m for m in said)
    assert not any(tag.startswith(("probe", "prediction")) for tag in tags(run))


@pytest.mark.parametrize(("size", "measured"), [(14, False), (20, False), (21, True)])
def test_neighbours_need_more_samples_than_shall_vote(fit: Any, caplog: Any, size: int, measured: bool) -> None:
    callbacks = [convscope.LayerProbe(probe="knn"), convscope.LayerProbe()]
    with caplog.at_level("INFO"):
        run = fit(callbacks, data=both(*images(size)))
    said = [message for message in caplog.messages if "probe_knn" in message]
    assert said == ([] if measured else [
        f"convscope: probe_knn is skipped: probe='knn' asks 20 neighbours of each sample, and {size} held-out samples "
        "can be probed; raise HeldOut(size=...) above 20"
    ])  # fmt: skip
    assert any(tag.startswith("probe_knn/accuracy") for tag in tags(run)) is measured
    assert any(tag.startswith("probe/accuracy") for tag in tags(run))
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.randn(30, 8, 8), r"\(N, 8, 8\) of float32 are a quantity at each position, which is not probed"),
        (torch.ones(30, 3, 8, 8), r"\(N, 3, 8, 8\) of float32 are masks that may overlap, which are not probed"),
    ],
)
def test_dense_targets_that_cannot_be_probed(fit: Any, caplog: Any, targets: torch.Tensor, message: str) -> None:
    module = Task(Segmenter(1), lambda z, y: z.square().mean())
    with caplog.at_level("INFO"):
        run = fit([convscope.LayerProbe(), convscope.FilterCorrelation()], module, both(X, targets), max_epochs=1)
    said = [line for line in caplog.messages if "probe is skipped" in line]
    assert len(said) == 1
    assert re.search(message, said[0])
    assert not any(tag.startswith("probe") for tag in tags(run))
    assert run.trainer.global_step == 4


class Contrastive(Classifier):
    """SimCLR's shape: the loss is between two views, and the labels are no business of the model's."""

    def __init__(self) -> None:
        super().__init__(TinyResNet(4, classes=16))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        views = [F.normalize(self(batch[0] + 0.1 * torch.randn_like(batch[0])), dim=1) for _ in range(2)]
        return F.cross_entropy(views[0] @ views[1].T / 0.1, torch.arange(len(batch[0])))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def test_self_supervised_probes_use_labels_that_the_model_does_not(fit: Any, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        run = fit(convscope.suite("standard"), Contrastive(), both(X, Y))
    said = [message for message in caplog.messages if "is skipped" in message]
    assert len(said) == 1
    assert "importance is skipped: the model has 16 outputs where the targets have 3 classes" in said[0]
    assert len(run.curve("probe/accuracy/net.layer2.0.conv2")) == 3
    assert "correlation/mean_abs/net.conv1" in tags(run)


def test_self_supervised_without_labels(fit: Any, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        run = fit(convscope.suite("standard"), Contrastive(), both(X))
    said = sorted(message for message in caplog.messages if "is skipped" in message)
    assert len(said) == 2
    assert "importance is skipped: the held-out batches have no targets, so there is no loss" in said[0]
    assert "probe is skipped: the held-out batches have no targets to predict" in said[1]
    assert "correlation/mean_abs/net.conv1" in tags(run)


def test_the_users_own_loss_is_taken_for_outputs_that_look_like_none(fit: Any) -> None:
    importance = convscope.FilterImportance(loss=lambda z, y: z.square().sum(1))
    run = fit([importance], Contrastive(), both(X, Y), max_epochs=1)
    assert "importance/gini/net.conv1" in tags(run)


class Detector(Classifier):
    """torchvision's custom: a list of images in, losses in training, and in evaluation one dict of boxes an image."""

    def __init__(self) -> None:
        super().__init__(TinyResNet(4, classes=4))

    def forward(self, pictures: Any, targets: Any = None) -> Any:
        boxes = self.net(torch.stack(list(pictures)))
        if self.training:
            return {"box": F.l1_loss(boxes, torch.stack([t["boxes"][0] for t in targets]))}
        return [{"boxes": row.repeat(k % 3 + 2, 1)} for k, row in enumerate(boxes)]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(*batch)["box"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


class Detections(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return X[i], {"boxes": X[i, :1, 0, :4], "labels": Y[i : i + 1]}


def lists(batch: list[Any]) -> tuple[list[Any], list[Any]]:
    return [image for image, _ in batch], [target for _, target in batch]


def present(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Which classes an image shows: what a layer can be probed for."""
    labels = torch.stack([F.one_hot(target["labels"], 3).amax(0) for target in batch[1]])
    return torch.stack(list(batch[0])), labels


def test_detection_through_an_adapter(fit: Any, caplog: Any) -> None:
    loader = DataLoader(Detections(), 8, collate_fn=lists)
    with caplog.at_level("INFO"):
        heldout = convscope.HeldOut(adapter=present)
        callbacks = [*convscope.suite("standard", heldout=heldout), convscope.LayerPrediction(heldout=heldout)]
        run = fit(callbacks, Detector(), (loader, loader))
    assert run.curve("zz_convscope/errors")[-1][1] == 0
    assert len(run.curve("probe/accuracy/net.layer2.0.conv2")) == 3
    assert "probe/accuracy/output" not in tags(run)
    assert "prediction/true_probability/net.layer2.0.conv2" in tags(run)
    assert sum("importance is skipped" in message for message in caplog.messages) == 1
    said = [message for message in caplog.messages if "no floating-point tensor in it has one row for each" in message]
    assert len(said) == 2  # of the output, and why health has no gradients; importance refers to it


def test_detection_without_an_adapter_says_what_to_pass(fit: Any) -> None:
    loader = DataLoader(Detections(), 8, collate_fn=lists)
    with pytest.raises(MisconfigurationException, match=r"HeldOut\(adapter="):
        fit([convscope.LayerProbe()], Detector(), (loader, loader))


@pytest.mark.parametrize(
    ("arguments", "targets", "message"),
    [
        (
            {"task": "multilabel"},
            Y,
            r"task='multilabel' does not fit held-out targets of shape \(N,\) and int64: it ne",
        ),
        ({"task": "classification"}, SIZE, r"task='classification' does not fit .* float32: it needs one class index"),
        ({"task": "segmentation"}, Y, r"task='segmentation' does not fit .* it needs a class index per position"),
        ({"task": "regression"}, MASKS, r"task='regression' does not fit .*\(N, 8, 8\)"),
        ({}, torch.full((30,), 2.5), r"the 30 held-out samples all have one target"),
        ({}, SIZE.index_fill(0, torch.tensor([3]), torch.nan), r"held-out targets have NaN or infinite values"),
        ({}, MASKS * 0, r"every held-out position has class 0: a probe needs at least two classes"),
        ({"pooling": "max"}, MASKS, r"pooling='max': masks are probed position by position"),
    ],
)
def test_targets_that_do_not_fit_are_refused_before_training(
    fit: Any, arguments: dict[str, Any], targets: torch.Tensor, message: str
) -> None:
    heldout = convscope.HeldOut((X, targets))
    with pytest.raises(MisconfigurationException, match=message):
        fit([convscope.LayerProbe(heldout=heldout, **arguments)])
