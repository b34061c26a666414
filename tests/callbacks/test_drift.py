"""RepresentationDrift through real fits, against CKA and correlations computed by hand on copies of the network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from scipy.stats import spearmanr
from torch import nn

import convscope
from convscope import DriftAlert
from convscope.callbacks import FilterImportance, RepresentationDrift
from convscope.callbacks.engine.findings import Findings
from tests.callbacks.conftest import Classifier, loaders
from tests.networks import TINY_RESNET_UNITS, Plain, TinyResNet, images

LAYERS = ("net.conv1", "net.conv2")


class Caught(RepresentationDrift):
    """Keeps the network of each check."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.networks: list[nn.Module] = []

    def ready(self, plan: Any) -> None:
        super().ready(plan)
        self.plan = plan

    def begin(self, layers: list[Any], samples: int) -> None:
        super().begin(layers, samples)
        self.networks.append(copy.deepcopy(self.plan.subject.module.net).eval())


def plain(lr: float = 0.05, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(Plain(channels=3), lr=lr)


def values(run: Any, tag: str) -> list[float]:
    return [value for _, value in run.curve(tag)]


def activations(net: nn.Module) -> dict[str, np.ndarray]:
    with torch.no_grad():
        first = torch.relu(net.conv1(images(30, seed=1)[0]))
        second = torch.relu(net.conv2(first))
    return dict(zip(LAYERS, (first.double().numpy(), second.double().numpy()), strict=True))


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Through centred Gram matrices, of features pooled over positions."""
    grams = []
    for features in (x.mean((2, 3)), y.mean((2, 3))):
        away = features - features.mean(0)
        grams.append(away @ away.T)
    k, m = grams
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def flat(activation: np.ndarray) -> np.ndarray:
    return np.moveaxis(activation, 1, 0).reshape(activation.shape[1], -1)


def test_every_documented_tag_is_written_and_no_other(fit: Any) -> None:
    run = fit([FilterImportance(), RepresentationDrift(reference=TinyResNet(4, classes=3), curves="all")])
    documented = {
        "cka_previous", "cka_first", "cka_reference", "correlation_change", "mean_shift", "variance_shift",
        "importance_stability_previous", "importance_stability_first",
    }  # fmt: skip
    written = {tag for tag in run.events.Tags()["scalars"] if tag.startswith("drift/")}
    assert written == {f"drift/{quantity}/net.{unit}" for quantity in documented for unit in TINY_RESNET_UNITS}
    assert len(values(run, "drift/cka_previous/net.conv1")) == 2
    assert len(values(run, "drift/cka_reference/net.conv1")) == 3
    assert {"drift/map/cka_previous", "drift/map/cka_first"} <= set(run.events.Tags()["images"])
    assert values(run, "zz_convscope/errors") == [0, 0, 0]


def test_values_are_those_computed_by_hand_on_copies_of_the_network(fit: Any) -> None:
    reference = plain(seed=5).net
    drift = Caught(reference=reference, curves="all")
    run = fit([drift], plain(), max_epochs=3)
    seen, anchor = [activations(net) for net in drift.networks], activations(reference)
    assert len(seen) == 4
    for layer in LAYERS:
        now = [activation[layer] for activation in seen]
        pairs = list(zip(now[1:], now[:-1], strict=True))
        logged = {key: values(run, f"drift/{key}/{layer}") for key in ("cka_previous", "cka_first", "cka_reference")}
        assert logged["cka_previous"] == pytest.approx([cka(a, b) for a, b in pairs], abs=1e-4)
        assert logged["cka_first"] == pytest.approx([cka(a, now[0]) for a in now[1:]], abs=1e-4)
        assert logged["cka_reference"] == pytest.approx([cka(a, anchor[layer]) for a in now], abs=1e-4)
        assert max(logged["cka_reference"]) < 0.999
        changes, shifts, variances = [], [], []
        for a, b in pairs:
            before = np.corrcoef(flat(b))
            changes.append(np.linalg.norm(np.corrcoef(flat(a)) - before) / np.linalg.norm(before))
            spread = (flat(a).var(1).sum() + flat(b).var(1).sum()) / 2
            shifts.append(np.sqrt(((flat(a).mean(1) - flat(b).mean(1)) ** 2).sum() / spread))
            variances.append(np.abs(flat(a).var(1) - flat(b).var(1)).sum() / (2 * spread))
        assert values(run, f"drift/correlation_change/{layer}") == pytest.approx(changes, abs=1e-3)
        assert values(run, f"drift/mean_shift/{layer}") == pytest.approx(shifts, rel=1e-4)
        assert values(run, f"drift/variance_shift/{layer}") == pytest.approx(variances, rel=1e-4)


def test_a_network_that_does_not_train_does_not_drift(fit: Any) -> None:
    for debiased in (False, True):
        run = fit([RepresentationDrift(debiased=debiased, curves="all")], plain(lr=0.0))
        for layer in LAYERS:
            assert values(run, f"drift/cka_previous/{layer}") == pytest.approx([1, 1], abs=1e-6)
            assert values(run, f"drift/cka_first/{layer}") == pytest.approx([1, 1], abs=1e-6)
            for quantity in ("correlation_change", "mean_shift", "variance_shift"):
                assert values(run, f"drift/{quantity}/{layer}") == [0, 0]


def test_layers_that_have_converged_are_named_with_what_freezing_them_would_save(fit: Any) -> None:
    alert = DriftAlert(rules=convscope.rules.convergence())
    run = fit([RepresentationDrift(curves="all"), alert], plain(lr=0.0), max_epochs=10)
    # Two 3 x 3 convolutions on 8 x 8 pixels: 1 to 4 and 4 to 6 channels here.
    first, second = 9 * 3 * 4 * 64, 9 * 4 * 6 * 64
    step = 2 * first + 3 * second
    saved = {LAYERS[0]: (first + second) / step, LAYERS[1]: (first + 2 * second) / step}
    for layer, share in saved.items():
        assert values(run, f"drift/freezable/{layer}") == pytest.approx([share] * 3)  # after epochs 7, 8 and 9
    (found,) = alert.incidents
    assert (found.rule, found.severity, found.epoch) == ("converged", "info", 7)
    assert found.sentence.startswith(f"{LAYERS[1]} has converged")
    assert f"would save {saved[LAYERS[1]]:.0%} of a step" in found.sentence


def test_a_layer_behind_one_that_still_learns_is_not_named_and_neither_is_a_frozen_one(fit: Any) -> None:
    module = plain(lr=0.5)
    module.net.conv2.requires_grad_(False)
    run = fit([RepresentationDrift(curves="all")], module, max_epochs=10)
    assert not [tag for tag in run.events.Tags()["scalars"] if tag.startswith("drift/freezable/")]


def test_what_is_frozen_already_is_no_part_of_a_step_any_more(fit: Any) -> None:
    module = plain(lr=0.0)
    module.net.conv1.requires_grad_(False)
    run = fit([RepresentationDrift(curves="all")], module, max_epochs=9)
    first, second = 9 * 3 * 4 * 64, 9 * 4 * 6 * 64
    now = (
        first + 2 * second
    )  # of the first one the forward pass alone is left, and no gradient of its output is asked for
    assert values(run, f"drift/freezable/{LAYERS[1]}") == pytest.approx([second / now] * 2)
    assert f"drift/freezable/{LAYERS[0]}" not in run.events.Tags()["scalars"]


def test_debiased_is_the_unbiased_estimator(fit: Any) -> None:
    drift = Caught(debiased=True)
    run = fit([drift], plain())
    pooled = [torch.tensor(activations(net)["net.conv2"].mean((2, 3))) for net in drift.networks]
    expected = [float(convscope.metrics.functional.linear_cka(a, pooled[0], debiased=True)) for a in pooled[1:]]
    assert values(run, "drift/cka_first/net.conv2") == pytest.approx(expected, abs=1e-4)
    assert expected != pytest.approx(
        [float(convscope.metrics.functional.linear_cka(a, pooled[0])) for a in pooled[1:]], abs=1e-4
    )


@pytest.mark.parametrize("importance_first", [True, False])
def test_rank_stability_of_importance_whatever_the_order_of_callbacks(fit: Any, importance_first: bool) -> None:
    kept: list[dict[str, Any]] = []

    class Keeps(FilterImportance):
        def conclude(self, findings: Findings, check: Mapping[str, Findings]) -> None:
            kept.append({layer: result.distribution for layer, result in findings.layers.items()})

    callbacks = [Keeps(every_n_epochs=2), RepresentationDrift(curves="all")]
    run = fit(callbacks if importance_first else callbacks[::-1], max_epochs=6)
    assert len(kept) == 4
    ranks = [importance["net.layer2.0.conv2"] for importance in kept]
    previous = [spearmanr(a, b).statistic for a, b in zip(ranks[1:], ranks, strict=False)]
    first = [spearmanr(a, ranks[0]).statistic for a in ranks[1:]]
    assert values(run, "drift/importance_stability_previous/net.layer2.0.conv2") == pytest.approx(previous)
    assert values(run, "drift/importance_stability_first/net.layer2.0.conv2") == pytest.approx(first)


def checkpointed(fit: Any, folder: Path, drift: RepresentationDrift, **arguments: Any) -> Any:
    return fit([FilterImportance(), drift, ModelCheckpoint(folder, save_last=True)], plain(), **arguments)


def test_a_resumed_run_is_the_run_that_was_never_stopped(fit: Any, tmp_path: Path) -> None:
    run = checkpointed(fit, tmp_path / "whole", RepresentationDrift(curves="all"), max_epochs=4)
    checkpointed(fit, tmp_path / "part", RepresentationDrift(curves="all"), max_epochs=2)
    path = tmp_path / "part" / "last.ckpt"
    resumed = checkpointed(fit, tmp_path / "rest", RepresentationDrift(curves="all"), max_epochs=4, ckpt_path=path)
    tags = [tag for tag in run.events.Tags()["scalars"] if tag.startswith("drift/")]
    assert len(tags) == 2 * 7
    for tag in tags:
        assert resumed.curve(tag) == run.curve(tag)[-2:], tag


def test_state_is_as_small_as_the_docs_say_and_plain_data(fit: Any, tmp_path: Path) -> None:
    drift = RepresentationDrift(curves="all")
    checkpointed(fit, tmp_path, drift, max_epochs=1)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][drift.state_key]
    for layer, filters in zip(LAYERS, (4, 6), strict=True):
        previous, first = state["previous"][layer], state["first"][layer]
        assert previous["features"].nbytes == first.nbytes == 2 * 30 * filters
        assert previous["matrix"].nbytes == 2 * filters**2


def test_another_heldout_set_after_a_resume_begins_anew(fit: Any, tmp_path: Path) -> None:
    checkpointed(fit, tmp_path, RepresentationDrift(curves="all"), max_epochs=2)
    data = (loaders()[0], loaders(val=21)[1])
    run = checkpointed(
        fit, tmp_path, RepresentationDrift(curves="all"), max_epochs=4, ckpt_path=tmp_path / "last.ckpt", data=data
    )
    assert len(values(run, "drift/cka_previous/net.conv1")) == 1
    assert len(values(run, "drift/cka_first/net.conv1")) == 1
    assert values(run, "zz_convscope/errors") == [0, 0]


def test_a_new_fit_begins_anew(fit: Any) -> None:
    drift = RepresentationDrift(curves="all")
    fit([drift], plain())
    run = fit([drift], plain())
    assert len(values(run, "drift/cka_first/net.conv1")) == 2


def test_a_layer_that_dies_reads_as_a_jump_and_never_as_nan(fit: Any) -> None:
    class Kills(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    pl_module.net.conv2.bias.fill_(-1e4)

    run = fit([Kills(), RepresentationDrift(curves="all")], plain(lr=1e-3), max_epochs=4)
    assert values(run, "drift/cka_previous/net.conv2")[1:] == [0]  # a jump; two dead layers cannot be compared
    assert values(run, "drift/cka_first/net.conv2")[1:] == [0, 0, 0]
    assert values(run, "drift/variance_shift/net.conv2")[1:] == [1, 0, 0]
    assert values(run, "zz_convscope/errors")[-1] == 0
    for tag in run.events.Tags()["scalars"]:
        assert all(math.isfinite(value) for value in values(run, tag)), tag


# The reference.


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def reference_curve(fit: Any, reference: Any, module: Any = None) -> list[float]:
    run = fit([RepresentationDrift(reference=reference)], module or plain())
    assert values(run, "zz_convscope/errors")[-1] == 0
    return values(run, "drift/cka_reference/net.conv2")


def test_paths_prefixes_and_modules_name_the_same_reference(fit: Any, tmp_path: Path) -> None:
    other = plain(seed=7)
    expected = reference_curve(fit, other.net)
    assert expected[0] < 0.999
    fit([ModelCheckpoint(tmp_path, filename="kept", save_last=True)], plain(lr=0.0, seed=7), max_epochs=1)
    head = other.net.state_dict() | {"head.weight": torch.zeros(9, 6), "head.bias": torch.zeros(9)}
    references = [
        other,
        str(tmp_path / "kept.ckpt"),
        saved(tmp_path / "own.pt", other.state_dict()),
        saved(tmp_path / "net.pt", other.net.state_dict()),
        saved(tmp_path / "wrapped.pt", {f"model.module.{k}": v for k, v in other.net.state_dict().items()}),
        saved(tmp_path / "compiled.pt", {f"net._orig_mod.{k}": v for k, v in other.net.state_dict().items()}),
        saved(tmp_path / "head.pt", head),
    ]
    for reference in references:
        assert reference_curve(fit, reference) == expected, reference


def test_the_model_at_its_own_checkpoint_is_alike(fit: Any, tmp_path: Path) -> None:
    module = Classifier()
    path = saved(tmp_path / "start.pt", module.state_dict())
    run = fit([RepresentationDrift(reference=path)], module)
    for unit in TINY_RESNET_UNITS:
        curve = values(run, f"drift/cka_reference/net.{unit}")
        assert curve[0] == pytest.approx(1.0, abs=1e-6)
        assert curve[1:] == values(run, f"drift/cka_first/net.{unit}")


def test_the_reference_leaves_model_and_reference_as_they_were(fit: Any, tmp_path: Path) -> None:
    reference = TinyResNet(4, classes=3).train()
    reference.conv1.requires_grad_(False)
    before = copy.deepcopy(reference.state_dict())
    path = saved(tmp_path / "other.pt", TinyResNet(4, classes=3).state_dict())
    finals = []
    for callbacks in ([], [RepresentationDrift(reference=reference)], [RepresentationDrift(reference=path)]):
        torch.manual_seed(3)
        finals.append(fit(callbacks, Classifier()).module.state_dict())
    for name, tensor in finals[0].items():
        assert torch.equal(tensor, finals[1][name]), name
        assert torch.equal(tensor, finals[2][name]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in reference.state_dict().items())
    assert reference.training
    assert all(module.training for module in reference.modules())
    assert not reference.conv1.weight.requires_grad
    assert not any(module._forward_hooks for module in reference.modules())


def test_layers_that_the_reference_lacks_are_said_and_left_out(fit: Any, caplog: Any) -> None:
    class OneLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv2 = nn.Conv2d(3, 11, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv2(x)).mean((2, 3))

    run = fit([RepresentationDrift(reference=OneLayer())], plain())
    tags = run.events.Tags()["scalars"]
    assert "drift/cka_reference/net.conv2" in tags
    assert "drift/cka_reference/net.conv1" not in tags


def test_half_precision_and_the_raw_convolution(fit: Any) -> None:
    drift = RepresentationDrift(reference=plain(seed=5).net, observe_at="conv")
    run = fit([drift], plain(), precision="bf16-true")
    assert values(run, "zz_convscope/errors")[-1] == 0
    assert len(values(run, "drift/cka_reference/net.conv2")) == 3


class Unrunnable(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such thing")


BAD_REFERENCES = [
    ("missing.ckpt", None, "there is no such file"),
    ("text.ckpt", b"not a checkpoint", "cannot be read with weights_only=True"),
    ("code.ckpt", {"state_dict": Path.cwd}, "load it yourself"),
    ("empty.ckpt", {"epoch": 3}, "holds no weights"),
    ("narrow.ckpt", TinyResNet(3, classes=3).state_dict(), "missing or of another shape, the first net.conv1.weight"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_REFERENCES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_faulty_checkpoint_is_refused_before_training(
    fit: Any, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(MisconfigurationException, match=message):
        fit([RepresentationDrift(reference=tmp_path / name)])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), "none of the observed layers"),
        (nn.ModuleDict({"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 4, 3)}), r"no forward\(\) and 2 submodules"),
        (Unrunnable(), "KeyError: 'no such thing'"),
        (Plain(channels=1), "RuntimeError: .*expected input"),
    ],
)
def test_a_faulty_network_is_refused_before_training(fit: Any, reference: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit([RepresentationDrift(reference=reference)], plain())


def test_bad_arguments_are_named(fit: Any) -> None:
    with pytest.raises(ValueError, match="reference=3"):
        RepresentationDrift(reference=3)
    with pytest.raises(ValueError, match="max_observations=0"):
        RepresentationDrift(max_observations=0)
    three = convscope.HeldOut(images(3))
    with pytest.raises(MisconfigurationException, match="at least 4 held-out samples, but there are 3"):
        fit([RepresentationDrift(debiased=True, heldout=three)])


def test_max_observations_bounds_what_the_correlation_sees(fit: Any) -> None:
    few, all_positions = (
        fit([RepresentationDrift(max_observations=most, curves="all")], plain()) for most in (60, None)
    )
    tag = "drift/correlation_change/net.conv2"
    assert values(few, tag) != pytest.approx(values(all_positions, tag), abs=1e-4)
