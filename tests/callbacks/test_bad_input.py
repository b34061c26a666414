"""Bad input: a clear error before training begins, or a logged line while it goes on. Nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

import convscope
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TinyResNet, images

X, Y = images(30)


def with_nan() -> torch.Tensor:
    bad = X.clone()
    bad[3] = float("nan")
    return bad


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((X[:0], Y[:0]), r"the held-out set is empty"),
        ((with_nan(), Y), r"1 of 30 held-out inputs have NaN or infinite values \(samples \[3\]\)"),
        ((X, Y + 5), r"held-out labels lie in \[5, 7\], but the model has 3 outputs, so labels must be in \[0, 2\]"),
        ((X, torch.full_like(Y, -100)), r"every held-out label is ignored"),
        ((X, nn.functional.one_hot(Y).float() * 0.8 + 0.2 / 3), r"soft labels \(N, 3\).*argmax"),
    ],
    ids=["empty", "nan", "labels", "ignored", "soft labels"],
)
def test_a_faulty_heldout_set_is_refused_before_training(fit: Any, source: Any, message: str) -> None:
    module = Classifier()
    before = [p.clone() for p in module.parameters()]
    with pytest.raises(MisconfigurationException, match=message):
        fit(convscope.suite("standard", heldout=convscope.HeldOut(source)), module=module)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert module.net.training
    assert not any(m._forward_hooks for m in module.modules())


TOO_FEW = {
    "one class": ((X, torch.zeros_like(Y)), "every held-out sample has class 0: a probe needs at least two classes"),
    "one sample": ((X[:1], Y[:1]), "a probe needs at least two"),
}


@pytest.mark.parametrize("case", TOO_FEW)
def test_what_cannot_be_probed_is_refused_for_a_probe_and_skipped_in_a_suite(
    case: str, fit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source, why = TOO_FEW[case]
    with pytest.raises(MisconfigurationException, match=why):
        fit([convscope.LayerProbe(heldout=source)])
    with caplog.at_level("INFO"):
        run = fit(convscope.suite("standard", heldout=convscope.HeldOut(source), alerts=False, on_error="raise"))
    (said,) = [record.getMessage() for record in caplog.records if why in record.getMessage()]
    assert said.startswith("convscope: probe is skipped: ")
    tags = run.events.Tags()["scalars"]
    assert not any(tag.startswith("probe/") for tag in tags)
    assert any(tag.startswith("health/") for tag in tags)


def test_a_refusal_has_no_chain_of_our_own_steps(fit: Any) -> None:
    with pytest.raises(MisconfigurationException) as caught:
        fit([convscope.LayerProbe(heldout=(X, torch.zeros_like(Y)))])
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_soft_labels_serve_importance(fit: Any) -> None:
    soft = nn.functional.one_hot(Y).float() * 0.8 + 0.2 / 3
    run = fit([convscope.FilterImportance(heldout=convscope.HeldOut((X, soft)), on_error="raise")])
    assert len(run.curve("importance/gini/net.conv1")) == 3


def test_predictions_of_soft_labels_are_refused_without_a_word_of_probes(fit: Any) -> None:
    heldout = convscope.HeldOut((X, nn.functional.one_hot(Y).float() * 0.8 + 0.2 / 3))
    with pytest.raises(MisconfigurationException, match=r"soft labels \(N, 3\).*argmax") as caught:
        fit([convscope.FilterImportance(heldout=heldout), convscope.LayerPrediction(heldout=heldout)])
    assert "LayerProbe" not in str(caught.value)


def test_a_batch_whose_second_part_is_one_number_is_not_understood(fit: Any) -> None:
    def collate(samples: Any) -> Any:
        return torch.stack([x for x, _ in samples]), torch.tensor(0.5), torch.tensor([int(y) for _, y in samples])

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 8, collate_fn=collate)
    with pytest.raises(MisconfigurationException, match=r"cannot tell inputs from targets in a tuple of 0 .*adapter="):
        fit([convscope.LayerProbe(heldout=convscope.HeldOut(loader))])


def test_an_adapter_that_drops_rows_is_named(fit: Any) -> None:
    def positive(batch: Any) -> Any:
        return batch[0][batch[1] > 0], batch[1][batch[1] > 0]

    with pytest.warns(UserWarning, match=r"HeldOut\(adapter=positive\) made no row of a held-out sample"):
        fit([convscope.LayerProbe(heldout=convscope.HeldOut((X, Y), adapter=positive))], max_epochs=1)


class NaNAfter(nn.Module):
    """A network whose second layer gives NaN from its n-th evaluation forward on."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.head, self.value = nn.Linear(4, 3), value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        poison = 1.0 if self.training else self.value
        side = torch.relu(self.second(x) * poison if self.training else self.second(x * poison))
        return self.head(torch.nan_to_num(side).mean((2, 3)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_layer_that_gives_nan_is_named_and_the_others_are_measured(fit: Any, caplog: Any, value: float) -> None:
    run = fit(convscope.suite("standard"), module=Classifier(NaNAfter(value)))
    assert len(run.curve("probe/accuracy/net.first")) == 3
    assert "probe/accuracy/net.second" not in run.events.Tags()["scalars"]
    said = [m for m in caplog.messages if "layer net.second gives NaN or infinite activations" in m]
    assert len(said) == 1  # once, though it is so at every check
    # NaN flows back through the second layer, so the first has activations but no gradient to measure.
    assert "importance/gini/net.first" not in run.events.Tags()["scalars"]
    assert sum("gradients are NaN or infinite at net.first" in m for m in caplog.messages) == 1
    assert run.curve("zz_convscope/errors")[-1][1] == 6  # two findings at each of three checks
    assert run.trainer.global_step == 8


class Broken(convscope.FilterCorrelation):
    """Fails at one layer, at one place."""

    def __init__(self, place: str, error: BaseException, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.place, self.error = place, error

    def _fail(self, place: str, layer: str) -> None:
        if place == self.place and layer == "net.layer1.0.conv1":
            raise self.error

    def on_activation(self, record: Any) -> None:
        self._fail("update", record.layer.name)
        super().on_activation(record)

    def compute(self, layer: Any) -> Any:
        self._fail("compute", layer.name)
        return super().compute(layer)

    def begin(self, layers: Any, samples: int) -> None:
        self._fail("begin", layers[1].name)
        super().begin(layers, samples)


@pytest.mark.parametrize("place", ["update", "compute"])
def test_an_exception_in_a_metric_costs_one_layer(fit: Any, caplog: Any, place: str) -> None:
    run = fit([Broken(place, ZeroDivisionError("boom")), convscope.LayerProbe()])
    tags = run.events.Tags()["scalars"]
    assert "correlation/mean_abs/net.layer1.0.conv1" not in tags
    assert "correlation/mean_abs/net.layer1.0.conv2" in tags
    assert "probe/accuracy/net.layer1.0.conv1" in tags
    logged = [
        r
        for r in caplog.records
        if "correlation, layer net.layer1.0.conv1 failed (ZeroDivisionError: boom)" in r.message
    ]
    assert len(logged) == 1
    assert logged[0].exc_info is not None  # with its traceback
    assert run.curve("zz_convscope/errors")[-1][1] == 3
    assert run.trainer.global_step == 8


def test_an_exception_at_the_beginning_of_a_check_costs_the_callback(fit: Any, caplog: Any) -> None:
    run = fit([Broken("begin", RuntimeError("no room")), convscope.LayerProbe()])  # one held-out set, one pass
    assert len(run.curve("probe/accuracy/output")) == 3
    said = "the beginning of a check of correlation failed (RuntimeError: no room)"
    assert any(said in message for message in caplog.messages)
    assert run.trainer.global_step == 8


@pytest.mark.parametrize("need", ["needs_gradient", "loss", "takes_targets_as", "intervenes", "takes_nonfinite"])
@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_property_that_fails_costs_its_callback(fit: Any, caplog: Any, need: str, error: type[Exception]) -> None:
    def fails(self: Any) -> Any:
        raise error("not now")

    silent = type("Silent", (convscope.FilterCorrelation,), {need: property(fails, lambda self, value: None)})
    run = fit([silent(name="mine"), convscope.LayerProbe()], max_epochs=1)
    assert len(run.curve("probe/accuracy/output")) == 2
    assert not [tag for tag in run.events.Tags()["scalars"] if tag.startswith("mine/")]
    assert sum(f"of mine failed ({error.__name__}: not now)" in message for message in caplog.messages) == 1


def test_on_error_raise_lets_it_through(fit: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        fit([Broken("compute", ZeroDivisionError(), on_error="raise")])


def test_a_keyboard_interrupt_stops_training_as_ever_and_leaves_nothing(fit: Any) -> None:
    module = Classifier()
    with pytest.raises(SystemExit):  # as Lightning does on Ctrl-C
        fit([Broken("update", KeyboardInterrupt())], module=module)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(m.training for m in module.modules())


def test_out_of_memory_halves_the_chunk_and_goes_on(fit: Any, caplog: Any) -> None:
    sizes: list[int] = []

    class Hungry(TinyResNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training and len(x) > 8:
                raise torch.OutOfMemoryError("pretend")
            if not self.training:
                sizes.append(len(x))
            return super().forward(x)

    heldout = convscope.HeldOut((X, Y), batch_size=30)
    run = fit([convscope.LayerProbe(heldout=heldout)], module=Classifier(Hungry(4, classes=3)), max_epochs=1)
    assert len(run.curve("probe/accuracy/output")) == 2
    assert max(sizes) <= 8
    assert any("held-out samples now go through 7 at a time" in message for message in caplog.messages)


def test_constant_filters_are_counted(fit: Any) -> None:
    module = Classifier()
    with torch.no_grad():
        module.net.bn1.weight[0] = 0.0
        module.net.bn1.bias[0] = -1.0
    module.net.bn1.requires_grad_(False)
    run = fit([convscope.FilterCorrelation(curves="all")], module=module)
    assert [value for _, value in run.curve("correlation/constant_filters/net.conv1")] == [1.0, 1.0, 1.0]
    assert all(value == value for tag in run.events.Tags()["scalars"] for _, value in run.curve(tag))


def test_a_model_without_convolutions(fit: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(MisconfigurationException, match=r"ran no convolution.*Flatten, Linear, ReLU.*layers="):
        fit(convscope.suite("standard"), module=Classifier(net))
    run = fit([convscope.LayerProbe(layers="net.2")], module=Classifier(net))
    assert "probe/accuracy/net.2" in run.events.Tags()["scalars"]


def test_a_layer_entry_that_matches_nothing(fit: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"'net\.layr1\.\*' matches no layer.*net\.layer1\.0\.conv1"):
        fit([convscope.LayerProbe(layers="net.layr1.*")])


def test_no_validation_data_at_all(fit: Any) -> None:
    module = Classifier()
    module.validation_step = None  # type: ignore[assignment,method-assign]
    with pytest.raises(MisconfigurationException, match=r"no validation loader; pass HeldOut\(source="):
        fit(convscope.suite("standard"), data=(loaders()[0], None))
    heldout = convscope.HeldOut((X, Y))
    run = fit(convscope.suite("standard", heldout=heldout), data=(loaders()[0], None))
    assert [step for step, _ in run.curve("probe/accuracy/output")] == [0, 3, 7]


WHOLE = "give a whole number, at least 1"
OBSERVERS = [getattr(convscope, name) for name in convscope.__all__]
OBSERVERS = [kind for kind in OBSERVERS if isinstance(kind, type) and issubclass(kind, convscope.LayerObserver)]
OBSERVERS.remove(convscope.LayerObserver)


@pytest.mark.parametrize("kind", OBSERVERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_epochs": -1}, f"every_n_epochs=-1: {WHOLE}, or 0 for no such check"),
        ({"every_n_epochs": 1.5}, f"every_n_epochs=1.5: {WHOLE}, or 0 for no such check"),
        ({"every_n_train_steps": 1e3}, f"every_n_train_steps=1000.0: {WHOLE} (such as 1000), or 0 for no such check"),
        ({"on_start": "yes"}, "on_start='yes': give True or False"),
        ({"every_n_epochs": 0, "on_start": False}, "every_n_epochs=0, every_n_train_steps=0, on_start=False: no check"),
        ({"max_layers": 0}, f"max_layers=0: {WHOLE}, or None for all layers"),
        ({"max_layers": 2.5}, f"max_layers=2.5: {WHOLE}, or None for all layers"),
        ({"max_layers": True}, f"max_layers=True: {WHOLE}, or None for all layers"),
        ({"max_overhead": 0}, "max_overhead=0: give a share of training time in (0, 1], or None for no bound"),
        ({"max_overhead": True}, "max_overhead=True: give a share of training time in (0, 1], or None for no bound"),
        ({"on_error": "ignore"}, "on_error='ignore': give one of 'warn', 'raise'"),
        ({"observe_at": "input"}, "observe_at='input': give one of 'activation', 'conv'"),
        ({"pictures": "no"}, "pictures='no': give True or False"),
        ({"pictures": 1}, "pictures=1: give True or False"),
        ({"name": ""}, "name='': give a word without blanks and slashes, such as "),
        ({"name": "a/b"}, "name='a/b': give a word without blanks and slashes, such as "),
        ({"heldout": 7}, "heldout=7: give HeldOut(...), or a source of samples: a Dataset"),
        ({"layers": 7}, "cannot select by 7"),
    ],
    ids=str,
)
def test_shared_arguments_out_of_range(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) if message[:6] != "cannot" else message):
        kind(**arguments)


def test_numpy_integers_are_whole_numbers() -> None:
    observer = convscope.FilterCorrelation(
        max_layers=np.int64(3), max_observations=np.int32(64), every_n_epochs=np.uint8(2)
    )
    assert (observer.max_layers, observer.max_observations, observer.schedule.every_n_epochs) == (3, 64, 2)
    assert all(type(found) is int for found in (observer.max_layers, observer.schedule.every_n_epochs))
    assert convscope.HeldOut(size=np.int64(8), batch_size=np.int16(4), seed=np.int64(1)).size == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: convscope.LayerProbe(probe="svm"), "probe='svm': give one of 'ridge', 'logistic', 'knn', 'centroid'"),
        (lambda: convscope.LayerProbe(probe=None), "probe=None: give one of 'ridge', 'logistic', 'knn', 'centroid'"),
        (lambda: convscope.LayerProbe(pooling="sum"), "pooling='sum': give 'mean', 'max', or a whole grid size"),
        (lambda: convscope.LayerProbe(pooling=0), "pooling=0: give 'mean', 'max', or a whole grid size, at least 1"),
        (lambda: convscope.LayerProbe(pooling=True), "pooling=True: give 'mean', 'max', or a whole grid size"),
        (lambda: convscope.LayerProbe(task="ranking"), "task='ranking': give one of 'classification', 'multilabel'"),
        (lambda: convscope.LayerProbe(task="regression", probe="knn"), "probe='knn' predicts classes"),
        (lambda: convscope.LayerProbe(task="segmentation", pooling=2), "pooling=2: masks are probed position by"),
        (lambda: convscope.LayerProbe(max_positions=0), "max_positions=0: give a whole number of positions, at least"),
        (lambda: convscope.FilterImportance(criterion="fisher"), "criterion='fisher': give one of 'taylor'"),
        (lambda: convscope.FilterImportance(top=0), "top=0: give a share of the filters in (0, 1]"),
        (lambda: convscope.FilterImportance(top=True), "top=True: give a share of the filters in (0, 1]"),
        (lambda: convscope.FilterImportance(loss="ce"), "loss='ce': give a callable, called as loss(outputs, targets)"),
        (lambda: convscope.FilterHealth(loss="ce"), "loss='ce': give a callable, called as loss(outputs, targets)"),
        (lambda: convscope.FilterHealth(gradients="no"), "gradients='no': give True or False"),
        (
            lambda: convscope.FilterCorrelation(redundant_threshold=1.0),
            "redundant_threshold=1.0: give a correlation in",
        ),
        (lambda: convscope.FilterCorrelation(max_observations=0), f"max_observations=0: {WHOLE}, or None for all"),
        (
            lambda: convscope.FilterCorrelation(max_observations=1e4),
            f"max_observations=10000.0: {WHOLE} (such as 10000)",
        ),
        (lambda: convscope.RepresentationDrift(max_observations=1e4), "max_observations=10000.0: give a whole number"),
        (lambda: convscope.RepresentationDrift(debiased="no"), "debiased='no': give True or False"),
        (
            lambda: convscope.RepresentationDrift(reference=7),
            "reference=7: give the path of a checkpoint, an nn.Module",
        ),
        (lambda: convscope.RepresentationDrift(reference=""), "reference='': give the path of a checkpoint"),
        (lambda: convscope.LayerSimilarity(debiased="no"), "debiased='no': give True or False"),
        (lambda: convscope.LayerPrediction(output="loss"), "output='loss': give one of 'logits', 'readout'"),
        (
            lambda: convscope.LayerPrediction(examples=-1),
            "examples=-1: give a whole number of samples, at least 1, or 0",
        ),
        (
            lambda: convscope.LayerPrediction(changed=True),
            "changed=True: give a whole number of rows, at least 1, or 0",
        ),
        (lambda: convscope.ClassFilters(top=True), "top=True: give a whole number of filters, at least 1"),
        (lambda: convscope.ClassFilters(top=2.0), "top=2.0: give a whole number of filters, at least 1 (such as 2)"),
        (lambda: convscope.FilterPictures(filters=0), "filters=0: give a whole number of filters, at least 1"),
        (lambda: convscope.FilterPictures(images=False), "images=False: give a whole number of images, at least 1"),
        (lambda: convscope.FilterPictures(criterion="x"), "criterion='x': give one of 'taylor'"),
        (lambda: convscope.ForwardFromLayer(criterion="x"), "criterion='x': give one of 'taylor'"),
        (lambda: convscope.ForwardFromLayer(shares=()), "shares=(): give shares of filters in (0, 1) in rising order"),
        (
            lambda: convscope.ForwardFromLayer(shares=0.5),
            "shares=0.5: give shares of filters in (0, 1) in rising order",
        ),
        (lambda: convscope.ForwardFromLayer(shares=(0.5, 0.2)), "shares=(0.5, 0.2): give shares of filters in (0, 1)"),
        (lambda: convscope.ForwardFromLayer(shares=(0.5, 1)), "shares=(0.5, 1): give shares of filters in (0, 1)"),
        (lambda: convscope.ForwardFromLayer(baseline="median"), "baseline='median': give one of 'mean', 'zero'"),
        (
            lambda: convscope.ForwardFromLayer(samples=1),
            "samples=1: give a whole number of held-out samples, at least 2",
        ),
        (lambda: convscope.ForwardFromLayer(max_forwards=3), "max_forwards=3: give a whole number, at least 15"),
        (lambda: convscope.AblationOracle(criteria=()), "criteria=(): give a list of different criteria, at least 1"),
        (lambda: convscope.AblationOracle(criteria="taylor"), "criteria='taylor': give a list of different criteria"),
        (lambda: convscope.AblationOracle(criteria=["x"]), "criteria='x': give one of 'taylor'"),
        (lambda: convscope.AblationOracle(rank_by="x"), "rank_by='x': give one of 'taylor'"),
        (lambda: convscope.AblationOracle(ends=0), "ends=0: give a whole number of filters, at least 1"),
        (lambda: convscope.AblationOracle(random=2), "random=2: give a whole number of filters, at least 3"),
        (lambda: convscope.HeldOut(size=True), "HeldOut(size=True): give a whole number of samples, at least 1"),
        (lambda: convscope.HeldOut(size=1e3), "HeldOut(size=1000.0): give a whole number of samples, at least 1 (such"),
        (lambda: convscope.HeldOut(batch_size=0), "HeldOut(batch_size=0): give a whole number of samples, at least 1"),
        (lambda: convscope.HeldOut(stratify="no"), "HeldOut(stratify='no'): give True or False"),
        (lambda: convscope.HeldOut(seed=-1), "HeldOut(seed=-1): give a whole number, at least 0"),
        (lambda: convscope.HeldOut(adapter=3), "HeldOut(adapter=3): give a callable, called as adapter(batch)"),
        (lambda: convscope.HeldOut(network=""), "HeldOut(network=''): give the name of a submodule"),
        (lambda: convscope.suite("large"), "name='large': give one of 'light', 'standard', 'full'"),
        (lambda: convscope.suite(probe="knn"), "suite(probe='knn'): give it to a callback that takes it (LayerProbe)"),
        (
            lambda: convscope.suite(output="readout"),
            "suite(output='readout'): give it to a callback that takes it (LayerP",
        ),
        (
            lambda: convscope.suite(loss=print),
            "suite(loss=<built-in function print>): give it to a callback that takes",
        ),
        (lambda: convscope.suite(layer="conv1"), "suite(layer='conv1'): give some of layers, every_n_epochs"),
        (lambda: convscope.suite(max_layers=2.5), f"max_layers=2.5: {WHOLE}, or None for all layers"),
    ],
)
def test_arguments_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        make()


def test_too_few_samples_for_a_similarity_are_refused(fit: Any) -> None:
    three = convscope.HeldOut((X, Y), size=3)
    message = (
        r"similarity needs at least 4 held-out samples, but there are 3; raise HeldOut\(size=...\), or give debiased"
    )
    with pytest.raises(MisconfigurationException, match=message):
        fit([convscope.LayerSimilarity(heldout=three)])
    run = fit([convscope.LayerSimilarity(heldout=three, debiased=False)])
    assert len(run.curve("similarity/mean")) == 3
