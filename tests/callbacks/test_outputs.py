"""Whatever form outputs and labels come in, a run logs the numbers of the plain form, or says why it logs none."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

import convscope
from convscope.capture import Subject
from convscope.capture.outputs.settling import settle
from tests.callbacks.conftest import Classifier, Run, loaders
from tests.networks import images

Fit = Callable[..., Run]
X, Y = images(31, seed=4)
BINARY = (Y > 0).long()


class Net(nn.Module):
    """Two convolutions and a head; ``form`` says what is returned in evaluation mode."""

    def __init__(self, form: Callable[..., Any], outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 16, 3, padding=1)
        self.head, self.form = nn.Linear(16, outputs), form

    def forward(self, x: torch.Tensor) -> Any:
        embedding = F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))
        logits = self.head(embedding)
        return logits if self.training else self.form(embedding, logits, x)


class Module(Classifier):
    """Learns nothing, so that runs can be compared, and validates without a loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def plain(embedding: torch.Tensor, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return logits


def everything(heldout: convscope.HeldOut, **arguments: Any) -> list[Any]:
    """Every callback that goes by logits or labels."""
    shared: dict[str, Any] = {"heldout": heldout, "every_n_epochs": 1, "on_start": False, "pictures": False}
    shared |= {"on_error": "raise", "curves": "all"}
    return [
        convscope.LayerProbe(**shared),
        convscope.FilterImportance(**shared, **arguments),
        convscope.FilterImportance(criterion="output_correlation", **shared),
        convscope.LayerPrediction(**shared),
        convscope.ClassFilters(**shared),
        convscope.ForwardFromLayer(**shared, shares=[0.5], layers="*.second", **arguments),
        convscope.AblationOracle(**shared, layers="*.second", ends=2, random=4, **arguments),
        convscope.FilterHealth(**shared, **arguments),
    ]


def measured(fit: Fit, net: nn.Module, heldout: convscope.HeldOut, **arguments: Any) -> dict[str, float]:
    run = fit(everything(heldout, **arguments), Module(net), max_epochs=1)
    tags = [
        tag
        for tag in run.events.Tags()["scalars"]
        if "/" in tag and not tag.startswith(("zz_convscope/", "0_overview/"))
    ]
    return {tag: run.curve(tag)[-1][1] for tag in tags}


def assert_same(found: dict[str, float], expected: dict[str, float], tolerance: float = 2e-5) -> None:
    assert found.keys() == expected.keys()
    assert len(found) > 60
    different = {
        tag: (found[tag], expected[tag])
        for tag in found
        if found[tag] != pytest.approx(expected[tag], rel=tolerance, abs=tolerance)
    }
    assert not different


@pytest.fixture(scope="module")
def known() -> dict[Any, dict[str, float]]:
    """Numbers of the plain form, measured once."""
    return {}


def baseline(fit: Fit, known: dict[Any, dict[str, float]], outputs: int) -> dict[str, float]:
    if outputs not in known:
        targets = BINARY if outputs == 1 else Y
        known[outputs] = measured(fit, Net(plain, outputs), convscope.HeldOut((X, targets), batch_size=10))
    return known[outputs]


FORMS: dict[str, Callable[..., Any]] = {
    "embedding first": lambda e, z, x: (e, z),
    "loss first": lambda e, z, x: (z.square().mean(), z),
    "unknown keys": lambda e, z, x: {"a": e, "b": z},
    "squeezed": lambda e, z, x: z.squeeze(),
    "log-probabilities": lambda e, z, x: z.log_softmax(1),
    "probabilities": lambda e, z, x: z.softmax(1),
    "unflattened": lambda e, z, x: z[:, :, None, None],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_logits_gives_the_numbers_of_the_plain_one(fit: Fit, known: Any, form: str) -> None:
    """Thirty-one samples in chunks of ten: the last is a batch of one, from which a squeeze takes the batch axis."""
    found = measured(fit, Net(FORMS[form]), convscope.HeldOut((X, Y), batch_size=10))
    expected = baseline(fit, known, 3)
    if "probabilities" in form:  # other numbers in the output itself, but the same predictions and losses
        by_value = ("probe/", "importance_output", "class_filters", "health", "ablation/spearman_output")
        keep = [tag for tag in expected if not tag.startswith(by_value)]
        found, expected = {t: found[t] for t in keep}, {t: expected[t] for t in keep}
        assert len(found) > 20
        assert found == pytest.approx(expected, rel=1e-4, abs=2e-5)
        return
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("form", "logits"),
    [
        (lambda e, z, x: (z + 1, z), 1),
        (lambda e, z, x: {"one": {"main": z, "aux": -z}}, "one.main"),
        (lambda e, z, x: [-z, z], lambda out: out[-1]),
    ],
)
def test_named_logits_give_the_numbers_of_the_plain_form(fit: Fit, known: Any, form: Any, logits: Any) -> None:
    heldout = convscope.HeldOut((X, Y), batch_size=10, logits=logits)
    assert_same(measured(fit, Net(form), heldout), baseline(fit, known, 3))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_labels_of_any_integer_type_are_the_same_labels(fit: Fit, known: Any, dtype: torch.dtype) -> None:
    heldout = convscope.HeldOut((X, Y.to(dtype)), batch_size=10)
    assert_same(measured(fit, Net(plain), heldout), baseline(fit, known, 3))


@pytest.mark.parametrize(
    "targets",
    [BINARY.bool(), BINARY[:, None].to(torch.uint8), BINARY.float(), 2 * BINARY - 1, (2.0 * BINARY - 1)[:, None]],
    ids=["bool", "(N, 1)", "floats", "signs", "float signs"],
)
def test_two_classes_of_any_form_are_the_same_classes(fit: Fit, known: Any, targets: torch.Tensor) -> None:
    heldout = convscope.HeldOut((X, targets), batch_size=10)
    assert_same(measured(fit, Net(plain, 1), heldout), baseline(fit, known, 1))


@pytest.mark.parametrize("squeezed", [False, True])
def test_one_probability_gives_the_predictions_of_one_logit(fit: Fit, known: Any, squeezed: bool) -> None:
    def form(e: torch.Tensor, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return z.sigmoid().squeeze() if squeezed else torch.sigmoid(z)

    found = measured(fit, Net(form, 1), convscope.HeldOut((X, BINARY), batch_size=10))
    expected = baseline(fit, known, 1)
    assert found.keys() == expected.keys()
    for family in ("prediction/", "forward/", "importance/", "health/gradient_rms", "ablation/top", "ablation/random"):
        same = {tag: value for tag, value in expected.items() if tag.startswith(family)}
        assert same
        assert {tag: found[tag] for tag in same} == pytest.approx(same, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("chunk", [7, 31])
def test_ignored_samples_are_as_if_they_were_not_there(fit: Fit, chunk: int) -> None:
    """What goes by labels: probes, predictions, importance, ablation, removal."""
    spoilt, labels = torch.cat([X, X[:9] * 3 + 1]), torch.cat([Y, torch.full((9,), 255)])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    order[order < 31] = torch.arange(31)  # ignored ones anywhere among the others
    expected = measured(fit, Net(plain), convscope.HeldOut((X, Y)))
    ignoring = convscope.HeldOut((spoilt[order], labels[order].to(torch.uint8)), ignore_index=255, batch_size=chunk)
    found = measured(fit, Net(plain), ignoring)
    assert found.keys() == expected.keys()
    # The order of samples decides which a control permutes where, and a filter's fill is its mean over all samples.
    by_label = (
        "probe/accuracy/",
        "probe/balanced",
        "prediction/true",
        "prediction/ent",
        "prediction/cal",
        "importance/",
    )
    same = {tag: value for tag, value in expected.items() if tag.startswith(by_label) or tag == "probe/chance"}
    assert len(same) > 15
    assert {tag: found[tag] for tag in same} == pytest.approx(same, rel=1e-4, abs=1e-5)
    zero = [
        convscope.AblationOracle(heldout=heldout, baseline="zero", criteria=["weight_l1"], rank_by="weight_l1")
        for heldout in (convscope.HeldOut((X, Y)), ignoring)
    ]
    runs = [fit([oracle], Module(Net(plain)), max_epochs=1) for oracle in zero]
    for tag in [tag for tag in runs[0].events.Tags()["scalars"] if tag.startswith("ablation/")]:
        assert runs[1].curve(tag)[0][1] == pytest.approx(runs[0].curve(tag)[0][1], abs=1e-5)


NO_LOGITS: dict[str, tuple[Callable[..., Any], str]] = {
    "embedding": (lambda e, z, x: e, "has 16 outputs where the targets have 3 classes"),
    "embedding as wide as classes": (lambda e, z, x: F.normalize(z), "have length one, so they are an embedding"),
    "reconstruction": (lambda e, z, x: x * 0.5, "has the shape of its input, so it is a reconstruction"),
    "several": (lambda e, z, x: (z, -z), r"several tensors that could be its logits"),
    "class ids": (lambda e, z, x: z.argmax(1), "returns class indices of int64 in evaluation mode"),
    "squeezed ids": (lambda e, z, x: z.argmax(1).squeeze().int(), "returns class indices of int32"),
    "float ids": (lambda e, z, x: z.argmax(1).float(), "returns class indices of float32"),
    "one-hot ids": (lambda e, z, x: F.one_hot(z.argmax(1), 3).float(), "returns class indices of float32"),
    "sigmoids": (lambda e, z, x: z.sigmoid(), "as those of a sigmoid do, so they are not logits of classes"),
    "ids and score": (lambda e, z, x: {"label": z.argmax(1), "score": z.softmax(1).amax(1)}, "class indices of int64"),
    "nothing": (lambda e, z, x: None, "the model returns None"),
}


@pytest.mark.parametrize("form", NO_LOGITS)
def test_what_is_no_logits_costs_only_what_needs_logits(fit: Fit, caplog: Any, form: str) -> None:
    make, why = NO_LOGITS[form]
    with caplog.at_level("INFO"):
        found = measured(fit, Net(make), convscope.HeldOut((X, Y), batch_size=10))
    families = {tag.split("/")[0] for tag in found}
    assert families == {"probe", "prediction", "health"}
    assert not [tag for tag in found if tag.startswith("prediction/") and tag.endswith("/output")]
    assert "health/gradient_rms/net.second" not in found
    assert {"probe/accuracy/net.second", "prediction/true_probability/net.second"} <= found.keys()
    for name in ("importance", "importance_output_correlation", "class_filters", "forward", "ablation"):
        assert len(skipped(name, why, caplog.messages)) == 1


def skipped(name: str, why: str, messages: list[str]) -> list[str]:
    """Lines that name a callback as skipped, perhaps together with others that have the same reason."""
    subject = re.compile(rf"(: |each of (.*, )?){name}(,.*)? is skipped: ")
    assert any(why in message for message in messages)
    given = [message for message in messages if subject.search(message)]
    return [message for message in given if why in message or message.endswith("for the reason said above")]


def test_a_detached_selection_is_named_before_training(fit: Fit, caplog: Any) -> None:
    heldout = convscope.HeldOut((X, Y), logits=lambda out: out.detach())
    with caplog.at_level("INFO"):
        run = fit([convscope.FilterImportance(heldout=heldout), convscope.LayerProbe()], Module(Net(plain)))
    assert sum("gives a tensor that is detached from the network" in said for said in caplog.messages) == 1
    assert "probe/accuracy/output" in run.events.Tags()["scalars"]


def test_an_embedding_narrower_than_the_labels_costs_only_what_needs_logits(fit: Fit, caplog: Any) -> None:
    """Of thousands of identities a few are held out, and no output stands for any."""
    with caplog.at_level("INFO"):
        found = measured(fit, Net(plain), convscope.HeldOut((X, Y * 300 + 45)))
    assert {tag.split("/")[0] for tag in found} == {"probe", "prediction", "health"}
    assert skipped("importance", "held-out labels lie in [45, 645], 3 of 3", caplog.messages)


def test_what_the_user_says_settles_it(fit: Fit, known: Any) -> None:
    wide = Net(plain, outputs=12)
    found = measured(fit, wide, convscope.HeldOut((X, Y), classes=12))
    assert "prediction/true_probability/output" in found
    assert "importance/gini/net.first" in found
    trusted = measured(fit, wide, convscope.HeldOut((X, Y)), loss=F.cross_entropy)
    assert_same(trusted, found)
    none = measured(fit, Net(plain), convscope.HeldOut((X, Y), logits=False))
    assert "class_filters" not in {tag.split("/")[0] for tag in none}


def test_a_loss_of_the_users_is_measured_without_logits(fit: Fit) -> None:
    def triplet(embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (embedding - labels[:, None]).square().sum(1)

    found = measured(fit, Net(NO_LOGITS["embedding"][0]), convscope.HeldOut((X, Y)), loss=triplet)
    assert {"importance/gini/net.first", "ablation/top/net.second"} <= found.keys()
    assert not [tag for tag in found if tag.startswith("class_filters")]


@pytest.mark.parametrize(
    ("net", "targets", "arguments", "message"),
    [
        (Net(plain, 1), (X[:, 0].mean((1, 2)) * 40 + 50).long(), {}, "one output.*give them as floats"),
        (Net(plain), Y.float(), {}, "whole numbers from 0 to 2 of float32.*class indices must be integers"),
        (Net(plain), Y.masked_fill(Y == 1, 255), {}, r"\[0, 255\], but the model has 3 outputs.*ignore_index=255"),
        (Net(plain), Y - 1, {}, r"\[-1, 1\], but the model has 3 outputs.*ignore_index=-1"),
        (Net(plain), Y, {"classes": 2}, r"HeldOut\(classes=2\), but a held-out label is 2"),
        (Net(plain), Y, {"logits": "scores"}, r"HeldOut\(logits='scores'\): there is no such part in a tensor"),
        (Net(plain), Y, {"logits": lambda out: out.no}, r"HeldOut\(logits=.*failed on a tensor.*AttributeError"),
        (Net(plain), Y, {"logits": lambda out: out.argmax(1).float()}, "gives no logits: .* class indices of float32"),
        (Net(plain), Y, {"adapter": lambda batch: batch[0]}, r"returned a tensor .*must return two things"),
        (Net(plain), Y, {"adapter": lambda batch: (*batch, 1)}, "returned a tuple of 3; it must return two things"),
        (Net(plain), Y, {"adapter": lambda batch: None}, "returned None; it must return two things"),
        (Net(plain), Y, {"adapter": lambda batch: (batch[0], 3)}, "returned an int without a tensor as targets"),
    ],
)
def test_mistakes_are_refused_before_training(
    fit: Fit, net: nn.Module, targets: torch.Tensor, arguments: dict[str, Any], message: str
) -> None:
    module = Module(net)
    before = [p.clone() for p in module.parameters()]
    with pytest.raises(MisconfigurationException, match=message):
        fit(convscope.suite("standard", heldout=convscope.HeldOut((X, targets), **arguments)), module)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert module.trainer.global_step == 0


@pytest.mark.parametrize(
    "loss", [nn.BCEWithLogitsLoss(), lambda z, y: 1.0, lambda z, y: z.sum().detach(), lambda z, y: z.sum() * torch.nan]
)
def test_a_loss_that_cannot_be_used_is_refused_before_training(fit: Fit, loss: Any) -> None:
    module = Module(Net(plain))
    heldout = convscope.HeldOut((X, Y))
    with pytest.raises(MisconfigurationException, match=r"loss=.* cannot be used: on 8 held-out samples"):
        fit([convscope.LayerProbe(), convscope.FilterImportance(loss=loss, heldout=heldout)], module)
    assert module.trainer.global_step == 0


def test_a_loss_for_outputs_without_an_axis_of_their_own(fit: Fit) -> None:
    """As it is written for training: a column in place of the row would give every sample's loss with every other."""

    def squeezed(embedding: torch.Tensor, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return logits[:, 0]

    def own(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(z, y.float(), reduction="none")

    heldout = convscope.HeldOut((X, BINARY))
    assert_same(measured(fit, Net(squeezed, 1), heldout, loss=own), measured(fit, Net(squeezed, 1), heldout))


def test_a_loss_that_writes_into_its_targets_leaves_the_labels(fit: Fit) -> None:
    def writes(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(z, y.fill_(1), reduction="none")

    def fills(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(z, torch.ones_like(y), reduction="none")

    found = [measured(fit, Net(plain), convscope.HeldOut((X, Y.clone())), loss=loss) for loss in (writes, fills)]
    assert_same(*found)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_a_loss_is_tried_in_the_runs_own_precision(fit: Fit, precision: Any) -> None:
    seen: list[tuple[torch.dtype, bool]] = []

    def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append((z.dtype, torch.is_autocast_enabled("cpu")))
        return F.cross_entropy(z.float(), y)

    fit([convscope.FilterImportance(loss=loss)], Classifier(), precision=precision, max_epochs=1)
    assert len(set(seen)) == 1


@pytest.mark.parametrize("label", [255, 254, 7, -1])
def test_a_probe_alone_asks_what_a_label_far_off_means(fit: Fit, label: int) -> None:
    masks = (X[:, 0] > 0.5).long() + (X[:, 1] > 0.5).long()
    masks[:, :2] = label
    segmenter = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))
    with pytest.raises(MisconfigurationException, match=rf"HeldOut\(ignore_index={label}\)"):
        fit([convscope.LayerProbe(heldout=convscope.HeldOut((X, masks.clone())))], Module(segmenter))


def test_an_ignored_label_of_masks_counts_nowhere(fit: Fit) -> None:
    """The same numbers as with the field's -100, which the segmentation's own test compares with scikit-learn."""
    masks = (X[:, 0] > 0.5).long() + (X[:, 1] > 0.5).long()
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))
    found = []
    for label, dtype, arguments in ((-100, torch.long, {}), (255, torch.uint8, {"ignore_index": 255})):
        marked = masks.clone()
        marked[:, :3], marked[4] = label, label
        heldout = convscope.HeldOut((X, marked.to(dtype)), batch_size=8, **arguments)
        callbacks = [
            convscope.LayerProbe(heldout=heldout),
            convscope.FilterImportance(heldout=heldout),
            convscope.AblationOracle(heldout=heldout, on_error="raise", on_start=True, curves="all"),
        ]
        run = fit(callbacks, Module(segmenter), max_epochs=1)
        tags = run.events.Tags()["scalars"]
        assert {"probe/miou/net.0", "importance/gini/net.0", "ablation/random/net.0"} <= set(tags)
        found.append({tag: run.curve(tag)[0][1] for tag in tags if tag.startswith(("probe", "importance", "ablation"))})
    assert found[0] == found[1]
    assert len(found[0]) > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": True}, r"HeldOut\(logits=True\): give a name"),
        ({"logits": 1.5}, r"HeldOut\(logits=1\.5\)"),
        ({"logits": ""}, r"HeldOut\(logits=''\)"),
        ({"classes": 1}, r"HeldOut\(classes=1\): give a whole number of classes, at least 2, or a list"),
        ({"classes": True}, r"HeldOut\(classes=True\)"),
        ({"classes": [1, 1]}, r"HeldOut\(classes=\[1, 1\]\)"),
        ({"classes": "ten"}, r"HeldOut\(classes='ten'\)"),
        ({"ignore_index": 2.0}, r"HeldOut\(ignore_index=2\.0\): give one label"),
        ({"ignore_index": [255]}, r"HeldOut\(ignore_index=\[255\]\)"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convscope.HeldOut(**arguments)


def test_what_is_said_of_the_outputs_tells_two_heldout_sets_apart() -> None:
    source = (X, Y)
    said: list[dict[str, Any]] = [{}, {"logits": 0}, {"logits": False}, {"classes": 4}, {"ignore_index": 255}]
    sets = [convscope.HeldOut(source, **arguments) for arguments in said]
    assert len({heldout.identity for heldout in sets}) == 5
    assert sets[1].identity == convscope.HeldOut(source, logits=0).identity
    prepared = convscope.HeldOut((X, Y), size=20, network="a", logits=0, classes=4, ignore_index=255)
    prepared.prepare()
    part = prepared.sample(5)
    assert (part.logits, part.classes, part.ignore_index, part.network) == (0, 4, 255, "a")


def test_the_default_loaders_data_is_understood_as_before(fit: Fit) -> None:
    run = fit(convscope.suite("full", on_start=True), data=loaders(), max_epochs=1)
    assert run.curve("zz_convscope/errors")[-1][1] == 0


@pytest.mark.parametrize("task", [None, "segmentation"])
def test_naming_the_task_does_not_settle_what_a_label_means(fit: Fit, task: Any) -> None:
    masks = (X[:, 0] > 0.5).long() * 255
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(MisconfigurationException, match=r"ignore_index=255\), and if it is one, HeldOut\(classes="):
        fit([convscope.LayerProbe(heldout=convscope.HeldOut((X, masks)), task=task)], Module(features))
    stated = convscope.HeldOut((X, masks), classes=[0, 255])
    run = fit([convscope.LayerProbe(heldout=stated, task=task)], Module(features), max_epochs=1)
    assert "probe/miou/net.0" in run.events.Tags()["scalars"]


def test_whole_numbers_are_quantities_where_the_user_says_so(fit: Fit) -> None:
    ages = (X[:, 0].mean((1, 2)) * 40 + 50).long()
    heldout = convscope.HeldOut((X, ages))
    callbacks = [
        convscope.LayerProbe(heldout=heldout, task="regression"),
        convscope.FilterImportance(heldout=heldout, loss=lambda z, y: (z[:, 0] - y).square()),
    ]
    run = fit(callbacks, Module(Net(plain, 1)), max_epochs=1)
    assert {"probe/r2/net.first", "importance/gini/net.first"} <= set(run.events.Tags()["scalars"])
    with pytest.raises(MisconfigurationException, match="one output, which distinguishes the classes 0 and 1"):
        fit([convscope.LayerProbe(heldout=heldout)], Module(Net(plain, 1)))


@pytest.mark.parametrize("form", ["(logits, aux)", "named"])
def test_forward_from_layer_asks_which_output_is_meant(form: str) -> None:
    net = Net((lambda e, z, x: (z, -z)) if form == "(logits, aux)" else (lambda e, z, x: {"e": e, "logits": z})).eval()
    keep = torch.ones(16, dtype=torch.bool)
    with torch.no_grad():
        expected = Net(plain).eval()(X)
    if form == "(logits, aux)":
        with pytest.raises(ValueError, match=r"forward_from_layer: the model returns several tensors.*\(0 and 1\)"):
            convscope.forward_from_layer(net, X, "second", keep)
        found = convscope.forward_from_layer(net, X, "second", keep, logits=1)
        torch.testing.assert_close(found, -expected)
    else:
        torch.testing.assert_close(convscope.forward_from_layer(net, X, "second", keep), expected)


@pytest.mark.parametrize("probe", ["ridge", "logistic", "knn", "centroid"])
def test_labels_that_the_user_calls_classes_are_classes(fit: Fit, probe: Any) -> None:
    found = []
    for labels, said in ((Y, None), (Y - 1, [-1, 0, 1]), (Y * 500, [0, 500, 1000])):
        heldout = convscope.HeldOut((X, labels), logits=False, classes=said)
        run = fit([convscope.LayerProbe(probe=probe, heldout=heldout)], Module(Net(plain)), max_epochs=1)
        found.append([run.curve(tag) for tag in run.events.Tags()["scalars"] if tag.startswith("probe")])
    assert found[0] == found[1] == found[2]


def test_a_network_that_gives_nan_does_not_have_its_loss_refused(fit: Fit) -> None:
    importance = convscope.FilterImportance(loss=F.cross_entropy, heldout=convscope.HeldOut((X, Y)))
    run = fit([importance], Module(Net(lambda e, z, x: z * torch.nan)), max_epochs=1)
    assert run.trainer.global_step == 4


def test_a_loss_that_knows_its_ignored_label_needs_no_telling(fit: Fit) -> None:
    """Who goes by the loss alone can be had; who reads classes asks."""
    labels = Y.masked_fill(torch.arange(31) % 5 == 0, 255)
    loss = nn.CrossEntropyLoss(ignore_index=255)
    own = convscope.HeldOut((X, labels))
    callbacks = [
        convscope.FilterImportance(heldout=own, loss=loss, on_error="raise"),
        convscope.AblationOracle(heldout=own, loss=loss, layers="*.second", on_start=True),
    ]
    run = fit(callbacks, Module(Net(plain)), max_epochs=1)
    said = convscope.HeldOut((X, labels), ignore_index=255)
    told = fit([convscope.FilterImportance(heldout=said, on_error="raise")], Module(Net(plain)), max_epochs=1)
    for tag in ("importance/gini/net.first", "importance/gini/net.second"):
        assert run.curve(tag)[0][1] == pytest.approx(told.curve(tag)[0][1], rel=1e-5)
    assert "ablation/top/net.second" in run.events.Tags()["scalars"]
    with pytest.raises(MisconfigurationException, match=r"ignore_index=255"):
        fit([convscope.LayerProbe(heldout=own)], Module(Net(plain)))


@pytest.mark.parametrize("takes", ["one", "several"])
def test_a_network_that_takes_only_some_numbers_of_samples(fit: Fit, takes: str) -> None:
    """What a network refuses is no mistake of the user's, as long as checks run it as it can be run."""

    class Particular(Net):
        def forward(self, x: torch.Tensor) -> Any:
            if not self.training and (len(x) > 1) is (takes == "one"):
                raise ValueError("not so many" if takes == "one" else "not so few")
            return super().forward(x)

    net, heldout = Particular(plain).eval(), convscope.HeldOut((X, Y), batch_size=1 if takes == "one" else 8)
    heldout.prepare()
    outputs = settle(Subject(net, net, torch.device("cpu")), heldout)
    assert (outputs.task, outputs.shape) == ("classes", (3,))
    net.form = lambda e, z, x: 1 / 0
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        settle(Subject(net, net, torch.device("cpu")), heldout)


class TwoTensors(Classifier):
    """Returns two tensors of one shape, either of which could be logits."""

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.net(x)
        return [logits, logits * 0.5]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0])[0], batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def test_one_reason_is_said_in_full_once(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    watched = [convscope.LayerProbe(), convscope.FilterImportance(), convscope.LayerPrediction()]
    with caplog.at_level("INFO"):
        fit(watched, module=TwoTensors(), max_epochs=1)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("convscope: ")]
    assert sum("returns several tensors that could be its logits" in sentence for sentence in told) == 1
    assert "convscope: importance is skipped: for the reason said above" in told
    assert any(s.startswith("convscope: prediction leaves out the model's output: for the reason said") for s in told)
