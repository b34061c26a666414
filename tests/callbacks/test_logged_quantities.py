"""What loggers get by default: few curves a layer, no copies, what matters first; all else is in callback_metrics."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.utils.data import DataLoader, TensorDataset

import convscope
from tests.callbacks.conftest import Classifier
from tests.networks import Plain, images

BUDGET = 12
BUDGETS = {"light": 12, "standard": BUDGET, "full": 45}  # as docs/concepts.md says
STANDARD = (
    convscope.LayerProbe,
    convscope.FilterImportance,
    convscope.FilterCorrelation,
    convscope.RepresentationDrift,
    convscope.FilterHealth,
)


def small() -> Classifier:
    return Classifier(Plain(channels=3))


def standard(**arguments: Any) -> list[Any]:
    heldout = convscope.HeldOut(images(24))
    return [kind(**{"heldout": heldout, "on_error": "raise", **arguments}) for kind in STANDARD]


def per_layer(tags: Any, layer: str) -> list[str]:
    return sorted(tag for tag in tags if tag.endswith(f"/{layer}"))


def uneven() -> convscope.HeldOut:
    inputs, _ = images(24)
    return convscope.HeldOut((inputs, torch.tensor([0] * 14 + [1] * 7 + [2] * 3)))


@pytest.mark.parametrize("name", ["light", "standard", "full", "what standard is made of"])
def test_a_suite_keeps_to_its_budget(fit: Any, name: Any) -> None:
    heldout = uneven()  # where balanced accuracy is another number
    callbacks = convscope.suite(name, heldout=heldout) if name in BUDGETS else standard(heldout=heldout)
    run = fit(callbacks, module=small())
    tags = run.events.Tags()["scalars"]
    for layer in ("net.conv1", "net.conv2", "output"):
        assert 0 < len(per_layer(tags, layer)) <= BUDGETS.get(name, BUDGET), per_layer(tags, layer)
    assert "probe/balanced_accuracy/net.conv1" in tags


def test_what_loggers_do_not_get_can_be_monitored_and_judged(fit: Any) -> None:
    keys = ["health/not_learning/net.conv1", "correlation/redundant_share/net.conv2", "probe/selectivity/output"]
    stopping = EarlyStopping(monitor=keys[1], mode="max", patience=0, min_delta=2.0)
    rule = {"name": "own", "when": [{"metric": keys[1], "detector": {"kind": "threshold", "limit": -1.0}}]}
    alert = convscope.DriftAlert(rules=[{**rule, "severity": "warning", "message": "{value}"}])
    run = fit([*standard(), alert, stopping], module=small(), max_epochs=10)
    assert run.trainer.current_epoch == 2
    assert alert.alerts
    assert alert.alerts[0].rule == "own"
    for key in keys:
        assert key in run.trainer.callback_metrics
        assert key not in run.trainer.logged_metrics
        assert key not in run.events.Tags()["scalars"]


def test_every_quantity_is_logged_on_demand(fit: Any) -> None:
    run = fit(standard(curves="all"), module=small())
    tags = set(run.events.Tags()["scalars"])
    for key in ("health/not_learning", "correlation/redundant_share", "probe/selectivity", "importance/top_share"):
        assert f"{key}/net.conv1" in tags
    assert len(per_layer(tags, "net.conv1")) > 2 * BUDGET
    with pytest.raises(ValueError, match=r"curves=.some.: give one of 'main', 'all'"):
        convscope.FilterHealth(curves="some")


def test_balanced_accuracy_is_logged_where_it_says_something_else(fit: Any) -> None:
    given = {"on_error": "raise", "layers": "*conv1"}
    inputs, _ = images(24)
    even = convscope.LayerProbe(heldout=convscope.HeldOut((inputs, torch.arange(24) % 4)), name="even", **given)
    odd = convscope.LayerProbe(heldout=uneven(), name="odd", **given)
    tags = fit([even, odd], module=small(), max_epochs=1).events.Tags()["scalars"]
    assert "odd/balanced_accuracy/net.conv1" in tags
    assert "even/accuracy/net.conv1" in tags
    assert "even/balanced_accuracy/net.conv1" not in tags


def test_no_curve_of_a_sound_run_is_a_copy_of_another(fit: Any) -> None:
    run = fit(standard(), module=small(), max_epochs=3)
    events = run.events
    curves = {tag: tuple(e.value for e in events.Scalars(tag)) for tag in events.Tags()["scalars"]}
    mine = {tag: curve for tag, curve in curves.items() if tag.endswith("/net.conv1") and len(set(curve)) > 1}
    assert max(Counter(mine.values()).values()) == 1


def test_checks_at_steps_and_at_the_start_leave_details_out_too(fit: Any) -> None:
    run = fit(standard(every_n_epochs=0, every_n_train_steps=2), module=small())
    assert "health/nonfinite/net.conv1" in run.trainer.callback_metrics
    tags = run.events.Tags()["scalars"]
    assert "health/dead_filters/net.conv1" in tags
    assert "health/nonfinite/net.conv1" not in tags


class Break(Callback):
    """Kills a layer before an epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            with torch.no_grad():
                pl_module.net.conv1.weight.zero_()
                pl_module.net.conv1.bias.fill_(-9)


def orange(picture: Any) -> int:
    return int((picture == (235, 140, 0)).all(2).sum())


@pytest.mark.parametrize("validation", [True, False])
def test_one_overview_picture_with_alerts_on_its_time_axis(fit: Any, validation: bool) -> None:
    pytest.importorskip("PIL")
    rule = {"name": "dead", "severity": "warning", "message": "{layer}"}
    when = [{"metric": "health/dead_filters/*", "detector": {"kind": "threshold", "limit": 0.9}}]
    alert = convscope.DriftAlert(rules=[{**rule, "when": when}])
    arguments = {} if validation else {"limit_val_batches": 0}
    run = fit([*standard(), Break(), alert], module=small(), max_epochs=3, **arguments)
    assert [one.epoch for one in alert.alerts] == [1]
    events = run.events.Images("0_overview/all_maps")
    assert [event.step for event in events] == [0, 3, 7, 11]  # one a check, at its step
    found = [orange(decoded(event)) for event in events]
    # The alert is on the picture of the very check that it came from.
    assert found[:2] == [0, 0]
    assert found[2] > 0
    assert found[3] > 0


def decoded(event: Any) -> Any:
    import io

    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


def test_the_overview_sorts_first_and_bookkeeping_last(fit: Any) -> None:
    tags = [tag for tag in fit(standard(), module=small()).events.Tags()["scalars"] if "/" in tag]
    families = sorted({tag.split("/")[0] for tag in tags} | {"Accuracy", "val_loss"})
    assert families[0] == "0_overview"
    assert families[-1] == "zz_convscope"


def test_maps_have_titles_of_their_own_in_the_full_suite() -> None:
    from convscope.callbacks.engine.overview import map_title

    titles = [
        map_title(one, spec) for one in convscope.suite("full") if hasattr(one, "maps") for spec in one.maps.values()
    ]
    assert len(titles) == len(set(titles)) > 8


class Named(TensorDataset):
    """A data set that knows its classes."""

    classes = ("ant", "bee", "cow")


def test_names_of_classes_reach_text_and_pictures(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, _ = images(24)
    loader = DataLoader(Named(inputs, torch.arange(24) % 3), batch_size=8)
    shown: list[Any] = []
    from convscope.callbacks import class_filters, prediction

    for module, name in ((prediction, "prediction_strip"), (class_filters, "class_table")):
        draw = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, draw=draw: shown.append(a) or draw(*a))
    callbacks = [convscope.LayerPrediction(on_error="raise", examples=2), convscope.ClassFilters(on_error="raise")]
    run = fit(callbacks, module=small(), data=(loader, loader))
    text = run.events.Tensors("class_filters/top/net.conv1/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert all(f"| {name} |" in text for name in Named.classes)
    changed = run.events.Tensors("prediction/changed_most/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert any(f"| {name} |" in changed for name in Named.classes)
    assert all(list(arguments[-1]) == list(Named.classes) for arguments in shown)
