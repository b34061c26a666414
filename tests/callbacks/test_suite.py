"""The whole thing through a real Trainer.fit: what is written, where, and from how many passes."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.plugins.custom_scalar import layout_pb2

import convscope
from convscope.callbacks.parts.layer_observer import LayerObserver
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TINY_RESNET_UNITS, TinyResNet
from tests.support.spies import watch

UNITS = [f"net.{name}" for name in TINY_RESNET_UNITS]
PER_LAYER = {
    "probe": (["accuracy"], [*UNITS, "output"]),  # as many samples of each class: balanced accuracy is a copy
    "importance": (["gini", "rank_stability"], UNITS),
    "correlation": (["mean_abs", "effective_rank_ratio"], UNITS),
}
OVERVIEW = {
    "0_overview/probe_accuracy_highest", "0_overview/importance_gini_mean",
    "0_overview/correlation_effective_rank_ratio_mean",
}  # fmt: skip
SUMMARIES = {f"probe/{name}" for name in ("chance", "depth", "best_layer", "monotonicity", "guess_loss", "answer_bias")}
OWN = {"zz_convscope/seconds", "zz_convscope/overhead", "zz_convscope/errors"}


def three() -> list[Any]:
    return [convscope.LayerProbe(), convscope.FilterImportance(), convscope.FilterCorrelation()]


def test_every_documented_tag_is_written_and_no_other(fit: Any) -> None:
    run = fit(three())
    expected = {
        f"{family}/{quantity}/{layer}"
        for family, (quantities, layers) in PER_LAYER.items()
        for quantity in quantities
        for layer in layers
    }
    found = {tag for tag in run.events.Tags()["scalars"] if "/" in tag}
    assert found == expected | SUMMARIES | OVERVIEW | OWN


def test_steps_are_those_of_the_users_own_log(fit: Any) -> None:
    run = fit(convscope.suite("standard"), max_epochs=3)
    logged = [step for step, _ in run.curve("val_loss")]
    assert logged == [3, 7, 11]
    assert [step for step, _ in run.curve("probe/accuracy/output")] == [0, *logged]
    assert [step for step, _ in run.curve("importance/rank_stability/net.conv1")] == logged  # needs an earlier check
    assert [event.step for event in run.events.Images("probe/map/accuracy")] == [0, *logged]
    assert [event.step for event in run.events.Histograms("importance/filters/net.conv1")] == [0, *logged]


def test_values_are_those_of_the_metrics_on_the_trained_network(fit: Any) -> None:
    run = fit([convscope.LayerProbe(), convscope.FilterCorrelation(max_observations=None)])
    heldout = run.trainer.callbacks[0].heldout or run.trainer.val_dataloaders.dataset
    inputs, labels = heldout.tensors
    with torch.no_grad():
        net = run.module.net.eval()
        activation = torch.relu(net.bn1(net.conv1(inputs)))
        logits = net(inputs)
    from convscope.metrics.functional import channel_correlation, probe_accuracy, ridge_probe_scores

    for layer, features in (("net.conv1", activation.mean((2, 3))), ("output", logits)):
        expected = float(probe_accuracy(ridge_probe_scores(features, labels), labels))
        assert run.curve(f"probe/accuracy/{layer}")[-1][1] == pytest.approx(expected, abs=1e-6)
    matrix = channel_correlation(activation)
    off = ~torch.eye(len(matrix), dtype=torch.bool)
    assert run.curve("correlation/mean_abs/net.conv1")[-1][1] == pytest.approx(
        float(matrix[off].abs().mean()), rel=1e-4
    )


def test_one_forward_and_one_backward_however_many_are_due(fit: Any) -> None:
    module = Classifier()
    forwards = watch(module.net, lambda net, args, out: len(args[0]) if not net.training else None)
    seen = []

    class Counted(convscope.LayerProbe):
        def begin(self, *args: Any) -> None:
            seen.append(len(forwards))
            super().begin(*args)

        def end(self) -> None:
            seen.append(len(forwards))
            super().end()

    heldout = convscope.HeldOut(size=30, batch_size=10)
    observers = [c for c in convscope.suite("full", heldout=heldout)[1:] if isinstance(c, LayerObserver)]
    apart = convscope.InputResampling  # runs copies of its own
    shared = [each for each in observers if not each.intervenes and not isinstance(each, apart)]
    callbacks = [Counted(heldout=heldout), *shared]
    fit(callbacks, module=module, num_sanity_val_steps=0, max_epochs=1)
    first = forwards[seen[0] : seen[1]]
    assert first == [10, 10, 10]


def test_the_layout_is_one_event_with_layers_in_depth_order(fit: Any) -> None:
    run = fit(three())
    (event,) = run.events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    expected = [f"^correlation/mean_abs/{name.replace('.', chr(92) + '.')}$" for name in UNITS]
    assert charts["mean |correlation| of filter pairs, all 6 layers"] == expected
    assert [category.title for category in layout.category] == ["probe", "importance", "correlation"]


def test_early_stopping_and_checkpoint_follow_a_layers_accuracy(fit: Any, tmp_path: Any) -> None:
    monitor = "probe/accuracy/net.conv1"
    stopping = EarlyStopping(monitor=monitor, mode="max", patience=0, min_delta=2.0)  # no improvement is enough
    keeping = ModelCheckpoint(tmp_path / "kept", monitor=monitor, mode="max")
    run = fit([*convscope.suite("light"), stopping, keeping], max_epochs=10)
    assert run.trainer.current_epoch == 2  # the second epoch did not improve by 2
    assert keeping.best_model_score == pytest.approx(max(value for _, value in run.curve(monitor)[1:]))


def test_without_tensorboard_scalars_go_to_the_logger_there_is(fit: Any, tmp_path: Any) -> None:
    fit(convscope.suite("standard"), logger=CSVLogger(tmp_path / "csv"))
    header, *rows = (tmp_path / "csv/lightning_logs/version_0/metrics.csv").read_text().splitlines()
    assert "probe/accuracy/output" in header
    column = header.split(",").index("probe/accuracy/output")
    assert len([row for row in rows if row.split(",")[column]]) == 3


def test_without_a_logger_one_line_says_that_there_are_no_pictures(fit: Any, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        fit([convscope.LayerProbe()], logger=False)
    assert sum("no logger takes pictures" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("arguments", [{"logger": False}, {"fast_dev_run": True}, {"limit_val_batches": 0}])
def test_trainers_of_other_kinds(fit: Any, arguments: dict[str, Any]) -> None:
    callbacks = convscope.suite("standard", on_error="raise")
    run = fit(callbacks, **arguments)
    assert "probe/accuracy/output" in run.trainer.callback_metrics
    if "limit_val_batches" in arguments:  # the validation loop is off: checks come at the end of training epochs
        assert [step for step, _ in run.curve("probe/accuracy/output")] == [0, 3, 7]
        assert [step for step, _ in run.curve("train_loss")][-1] == 7


def test_a_second_fit_from_the_start_begins_anew_and_a_longer_one_goes_on(fit: Any) -> None:
    module, callbacks = Classifier(), convscope.suite("standard")
    fit(callbacks, module=module)
    run = fit(callbacks, module=module)
    assert callbacks[0].history.epochs == [0, 1, 2]  # before training, and after each epoch
    run.trainer.fit_loop.max_epochs = 4
    run.trainer.fit(module, *loaders())
    assert callbacks[0].history.epochs == [0, 1, 2, 3, 4]
    assert callbacks[0].history.steps == [0, 3, 7, 11, 15]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
    assert hooks == 0


def test_validate_and_test_alone_observe_nothing(fit: Any) -> None:
    run = fit(convscope.suite("light"))
    before = len(run.trainer.callbacks[0].history.rows)
    run.trainer.validate(run.module, run.trainer.val_dataloaders, verbose=False)
    assert len(run.trainer.callbacks[0].history.rows) == before


def test_two_callbacks_that_would_share_tags_are_refused(fit: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"both log under 'probe' \(LayerProbe and.*name='probe_2'"):
        fit([convscope.LayerProbe(), convscope.FilterCorrelation(name="probe")])
    with pytest.raises(MisconfigurationException, match=r"more than one of LayerProbe 'probe': .*name='probe_2'"):
        fit([convscope.LayerProbe(), convscope.LayerProbe(layers="net.conv1")])
    run = fit([convscope.LayerProbe(), convscope.LayerProbe(layers="net.conv1", pooling=2, name="grid")])
    assert {"probe/accuracy/net.conv1", "grid/accuracy/net.conv1"} <= set(run.events.Tags()["scalars"])


def test_max_layers_spreads_over_depth_and_says_so(fit: Any, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        run = fit([convscope.FilterCorrelation(max_layers=3)], module=Classifier(TinyResNet(4, classes=3)))
    layers = [tag for tag in run.events.Tags()["scalars"] if tag.startswith("correlation/mean_abs/")]
    assert layers == [f"correlation/mean_abs/{UNITS[i]}" for i in (0, 2, 5)]
    assert any("observes 3 of 6 layers, evenly over depth" in message for message in caplog.messages)


def test_interventions_are_on_256_samples_as_the_suite_says() -> None:
    for kind in (convscope.ForwardFromLayer, convscope.AblationOracle):
        assert signature(kind).parameters["samples"].default == 256
    assert "on at most 256 samples" in " ".join((convscope.suite.__doc__ or "").split())
