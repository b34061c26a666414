"""One verdict on what a model returns: which part is the output, what it is for, and why it is no logits."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from convscope.capture.data.targets import LabelForm, summarise_targets
from convscope.capture.outputs.choice import Outputs
from convscope.capture.outputs.parts import describe
from convscope.capture.outputs.verdict import Runs, Stated, settle_outputs

N = 6
THREE = torch.arange(N) % 3


class Pair(NamedTuple):
    embedding: torch.Tensor
    scores: torch.Tensor


class ModelOutput(OrderedDict):
    """Hugging Face's outputs: a dict whose keys are attributes, too."""

    __getattr__ = OrderedDict.__getitem__  # type: ignore[assignment]


@dataclass
class Named:
    features: torch.Tensor
    scores: torch.Tensor


def values(*shape: int, n: int = N) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(3)) * 3


def verdict(make: Any, targets: torch.Tensor | None, said: Any = None, inputs: Any = (3, 8, 8), **form: Any) -> Outputs:
    """``make(n)`` is what a model returns for n samples."""
    label_form = LabelForm(**form)
    summary = None if targets is None else summarise_targets(targets, label_form)
    return settle_outputs(Runs([make(1), make(N)], [1, N], inputs), summary, said or Stated())


def rows(*shape: int) -> Any:
    return lambda n: values(*shape)[:n]


def pair(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return values(16)[:n], values(3)[:n]


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (rows(3), ()),
        (pair, (1,)),
        (lambda n: [values(16)[:n], values(3)[:n], values(8)[:n]], (1,)),
        (lambda n: (values().sum(), values(3)[:n]), (1,)),
        (lambda n: Pair(*pair(n)), ("scores",)),
        (lambda n: Named(*pair(n)), ("scores",)),
        (lambda n: {"a": values(16)[:n], "b": values(3)[:n]}, ("b",)),
        (lambda n: {"deep": {"a": pair(n)}}, ("deep", "a", 1)),
        (lambda n: SimpleNamespace(z=values(16)[:n], y=values(3)[:n]), ("y",)),
        (lambda n: ModelOutput(loss=values().sum(), logits=values(3)[:n], hidden=values(3)[:n]), ("logits",)),
        (lambda n: {"out": values(3)[:n], "aux": values(3)[:n]}, ("out",)),
        (lambda n: {"aux_logits": values(3)[:n], "class_logits": values(3)[:n]}, ("class_logits",)),
        (lambda n: {"ids": values(3)[:n].argmax(1), "scores": values(3)[:n]}, ("scores",)),
        (lambda n: (values(3)[:n], values(3)[:n].softmax(1)), (0,)),
    ],
    ids=[
        "tensor", "embedding first", "list", "loss first", "named tuple", "dataclass", "dict", "nested", "object",
        "ModelOutput", "torchvision", "auxiliary", "ids too", "probabilities too",
    ],
)  # fmt: skip
def test_the_logits_are_found(make: Any, path: Any) -> None:
    found = verdict(make, THREE)
    assert (found.path, found.task, found.shape, found.why_not) == (path, "classes", (3,), None)
    expected = values(3)
    torch.testing.assert_close(found.take(make(N)), expected)
    torch.testing.assert_close(found.take(make(1)), expected[:1])
    assert pickle.loads(pickle.dumps(found)) == found  # one process tells the others


@pytest.mark.parametrize(
    ("make", "targets", "why"),
    [
        (
            rows(16),
            THREE,
            r"16 outputs where the targets have 3 classes, so its output may not be logits, .*HeldOut\(classes=16",
        ),
        (rows(4), torch.tensor([45, 9967, 45, 310, 310, 2]), r"3 of 4 beyond the model's 4 outputs"),
        (rows(3), torch.arange(N), r"3 of 6 beyond the model's 3 outputs.*HeldOut\(logits="),
        (rows(64), torch.tensor([0, 1, 2, 3, 5, 9]), "64 outputs where the targets have 6 classes"),
        (lambda n: F.normalize(values(3))[:n], THREE, "all have length one, so they are an embedding"),
        (lambda n: (values(3)[:n], values(3)[:n] * 2), THREE, "several tensors that could be its logits \\(0 and 1\\)"),
        (rows(3, 8, 8), THREE, "has the shape of its input, so it is a reconstruction"),
        (rows(3, 4, 4), THREE, r"has shape \(N, 3, 4, 4\), where the targets are one value per sample"),
        (rows(7, 3), THREE, r"has shape \(N, 7, 3\)"),
        (lambda n: values(3)[:n].argmax(1), THREE, "returns class indices of int64 in evaluation mode"),
        (lambda n: (values(3)[:n].argmax(1), values(3)[:n] > 0), THREE, "class indices of int64"),
        (lambda n: {"ids": values(3)[:n].argmax(1), "score": values(3)[:n].amax(1)}, THREE, "class indices of int64"),
        (lambda n: None, THREE, "the model returns None for 6 samples, and no floating"),
        (lambda n: {}, THREE, "returns a dict without a tensor for 6 samples"),
        (lambda n: values(3)[:n].sum(), THREE, "no floating-point tensor in it has one row"),
        (lambda n: values(3)[:n].movedim(0, 1), THREE, "no floating-point tensor in it has one row"),
        (lambda n: values(3)[:n] @ values(3)[:n].T, THREE, "no floating-point tensor in it has one row"),
        (
            lambda n: [{"boxes": values(4)[: k % 3 + 2]} for k in range(n)],
            THREE,
            "no floating-point tensor in it has one row for each",
        ),
        (rows(5, 4, 4), torch.randint(0, 5, (N, 8, 8)), r"differ in size.*interpolate\(output, \(8, 8\)\)"),
        (rows(4), torch.randn(N, 2), r"no loss can be inferred from outputs \(N, 4\) and targets \(N, 2\) of float32"),
        (rows(4), torch.randn(N), r"no loss can be inferred from outputs \(N, 4\) and targets \(N,\)"),
        (rows(3), None, "have no targets"),
    ],
)
def test_what_is_not_known_to_be_logits_is_not_taken_for_them(make: Any, targets: Any, why: str) -> None:
    found = verdict(make, targets)
    assert re.search(why, found.why_not or "")
    assert found.classes == 0


@pytest.mark.parametrize(
    ("labels", "outputs", "known"),
    [
        (torch.arange(10), 10, True),
        (torch.arange(10), 11, False),  # nothing is missing in between, so why should the last be?
        (torch.arange(0, 1000, 97), 1000, True),  # eleven of a thousand classes
        (torch.arange(980), 1000, False),
        (torch.tensor([k for k in range(999) if k % 20]), 1000, True),
        (torch.tensor([0, 2, 3, 4, 5, 6, 7, 8, 9]), 128, False),
        (torch.tensor([0, 1]), 2, True),
    ],
)
def test_more_outputs_than_classes_are_logits_where_classes_are_missing_by_chance(
    labels: torch.Tensor, outputs: int, known: bool
) -> None:
    found = settle_outputs(Runs([values(outputs)], [N]), summarise_targets(labels))
    assert (found.task == "classes") is known
    assert settle_outputs(Runs([values(outputs)], [N]), summarise_targets(labels), Stated(classes=outputs)).classes
    assert settle_outputs(Runs([values(outputs)], [N]), summarise_targets(labels), Stated(trusted=True)).classes
    said = settle_outputs(Runs([values(outputs)], [N]), summarise_targets(labels), Stated(classes=outputs + 1))
    one = settle_outputs(Runs([values(1)], [N]), summarise_targets(torch.tensor([0, 1])), Stated(classes=10))
    assert one.why_not == "the model has one output where HeldOut(classes=10) says 10"
    assert said.why_not == f"the model has {outputs} outputs where HeldOut(classes={outputs + 1}) says {outputs + 1}"


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (1, values(3)),
        (-1, values(3)),
        (0, values(16)),
        ("1", values(3)),
        (lambda out: out[1] * 2, values(3) * 2),
    ],
)
def test_the_user_names_the_logits(logits: Any, expected: torch.Tensor) -> None:
    found = verdict(pair, THREE, Stated(logits=logits))
    torch.testing.assert_close(found.take(pair(N)), expected)
    torch.testing.assert_close(found.take(pair(1)), expected[:1])
    assert found.task == "classes"
    assert found.notes == ()


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("head.scores", lambda z: SimpleNamespace(head={"other": z + 1, "scores": z})),
        ("head.1", lambda z: {"head": (z + 1, z)}),
        ("a.b", lambda z: {"a": {"b": z + 1}, "a.b": z}),
    ],
)
def test_the_user_names_the_logits_by_a_path(name: str, wrap: Any) -> None:
    def make(n: int) -> Any:
        return wrap(values(3)[:n])

    torch.testing.assert_close(verdict(make, THREE, Stated(logits=name)).take(make(N)), values(3))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ("logits", r"HeldOut\(logits='logits'\): there is no such part in a tuple of 0 \(6, 16\), 1 \(6, 3\)"),
        (5, r"HeldOut\(logits=5\): there is no such part"),
        ("0.z", "there is no such part"),
        (lambda out: out.logits, "failed on a tuple .*AttributeError"),
        (lambda out: out[1].argmax(1), "of int64; the logits must be a floating-point tensor"),
        (lambda out: out, "gives a tuple .*; the logits must be a floating-point tensor"),
        (lambda out: out[1][:1], r"gives shape \(1, 3\) for 6 samples; the logits must have one row for each sample"),
        (lambda out: out[1][:, :, None].expand(-1, -1, 4), r"gives \(N, 3, 4\): .*has shape \(N, 3, 4\)"),
    ],
)
def test_logits_that_are_not_there_are_refused(logits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verdict(pair, THREE, Stated(logits=logits))


def test_the_user_says_that_there_are_none() -> None:
    found = verdict(rows(3), THREE, Stated(logits=False))
    assert (found.classes, found.shape) == (0, (3,))
    assert found.why_not == "HeldOut(logits=False) says that the model returns none"


@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (lambda n: values(3)[:n].squeeze(), THREE),
        (lambda n: values(1)[:n].squeeze(), THREE > 0),
        (lambda n: values(3, 1, 1)[:n].squeeze(), THREE),
        (lambda n: values(1, 3)[:n], THREE),
        (lambda n: values(1, 4, 4)[:n], torch.randn(N, 4, 4)),
        (lambda n: (values(16)[:n].squeeze(), values(3)[:n].squeeze()), THREE),
        (lambda n: values(3, 4, 4)[:n].squeeze(), torch.arange(N * 16).view(N, 4, 4) % 3),
        (lambda n: values(1, 4, 4)[:n].squeeze(), torch.arange(N * 16).view(N, 4, 4) % 2),
    ],
    ids=["classes", "one logit", "unflattened", "one step", "quantities", "tuple", "masks", "binary masks"],
)
def test_a_squeezed_axis_is_put_back(make: Any, targets: torch.Tensor) -> None:
    found = verdict(make, targets)
    whole = found.take(make(N))
    assert found.shape is not None
    assert whole.shape == (N, *found.shape)
    for n in (1, 2, 5):
        torch.testing.assert_close(found.take(make(n)), whole[:n])


def test_an_output_that_changes_its_shape_is_named() -> None:
    found = verdict(rows(3), THREE)
    with pytest.raises(ValueError, match=r"was \(N, 3\) for the samples .* but is now a tensor \(2, 4\) of float32"):
        found.take(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("make", "targets", "message"),
    [
        (rows(1), torch.tensor([3, 41, 97, 18, 60, 55]), r"are 3, 18, 41, 55, 60, 97, .*one output.*batch\[1\]\.float"),
        (rows(1), torch.tensor([1, 2, 1, 2, 1, 2]), r"ignore_index=2.*two classes, .*\(batch\[1\] == 2\)\.long"),
        (
            rows(3),
            torch.tensor([0.0, 1, 2, 0, 1, 2]),
            "whole numbers from 0 to 2 of float32.*class indices must be",
        ),
        (rows(3), torch.tensor([0, 1, 2, 0, 1, 255]), r"\[0, 255\], but the model has 3 outputs.*ignore_index=255"),
        (rows(3), torch.tensor([0, 1, 2, 0, 1, -1]), r"\[-1, 2\], but the model has 3 outputs.*ignore_index=-1"),
        (
            rows(3),
            torch.tensor([5, 6, 7, 5, 6, 7]),
            r"\[5, 7\], but the model has 3 outputs, so labels must be in \[",
        ),
        (rows(3, 4, 4), torch.arange(N * 16).view(N, 4, 4) % 3 + 253, r"\[253, 255\], but the model has 3 outputs"),
        (
            rows(3, 2, 2),
            torch.arange(N * 16).view(N, 4, 4) % 4,
            r"\[0, 3\], but the model has 3 outputs.*ignore_index=3",
        ),
        (rows(1, 4, 4), (torch.arange(N * 16).view(N, 4, 4) % 2) * 255, "are 0, 255, .*ignore_index=255"),
        (rows(4, 4), torch.arange(N * 16).view(N, 4, 4), "one output per position.*give them as floats"),
    ],
    ids=[
        "ages",
        "1 and 2",
        "float ids",
        "255",
        "-1",
        "shifted",
        "masks",
        "coarse maps",
        "binary masks",
        "integer maps",
    ],
)
def test_targets_that_the_outputs_contradict_are_a_mistake(make: Any, targets: torch.Tensor, message: str) -> None:
    found = verdict(make, targets)
    assert re.search(message, found.mistake or "")


@pytest.mark.parametrize(
    ("labels", "asks"),
    [
        ([0, 1, 2, 255], True),
        ([0, 255], True),
        ([0, 3, 7, 12, 15, 255], True),
        ([-1, 0, 1], True),
        ([0, 1, 99], True),
        ([12, 40, 99, 400, 870], False),
        ([0, 1, 2], False),
        ([0, 2], False),
        ([3, 5, 8], False),
        (list(range(256)), False),
    ],
)
def test_a_label_far_from_the_others_is_asked_about(labels: list[int], asks: bool) -> None:
    summary = summarise_targets(torch.tensor(labels))
    unknown = Outputs(path=None)
    doubt = unknown.doubt(summary, None, task_is_known=True)
    assert (doubt is not None) is asks
    if doubt is not None:
        assert "HeldOut(ignore_index=" in doubt
        assert "HeldOut(classes=" in doubt
    assert (
        unknown.doubt(summary, tuple(labels), task_is_known=False) is None
    )  # the user has said that these are classes


@pytest.mark.parametrize("task", ["binary", "labels"])
def test_probabilities_of_a_sigmoid_are_told_by_the_operation_that_made_them(task: str) -> None:
    columns = 1 if task == "binary" else 2
    targets = THREE > 0 if task == "binary" else torch.tensor([[0, 1], [1, 1], [0, 0]] * 2)
    weight = torch.randn(columns, columns, requires_grad=True)
    small = (values(columns).sigmoid() / 4 + 0.3).detach()  # logits that happen to lie in [0, 1]

    def settled(graph: Any) -> Outputs:
        runs = Runs([graph()[:1].detach(), graph().detach()], [1, N], (), graph)
        return settle_outputs(runs, summarise_targets(targets))

    made = settled(lambda: (values(columns) @ weight).sigmoid().squeeze(-1).clone())
    assert made.form == "probabilities"
    logits = made.logits(made.take((values(columns) @ weight).sigmoid().squeeze(-1)))
    torch.testing.assert_close(logits, (values(columns) @ weight), atol=1e-2, rtol=1e-2)
    assert settled(lambda: small * weight.square().mean() / weight.square().mean().detach()).form == "logits"
    said = Stated(logits=lambda out: out)  # then it is known
    assert settle_outputs(Runs([small], [N], (), lambda: None), summarise_targets(targets), said).why_not is None
    unknown = settled(lambda: small)  # no graph tells
    assert unknown.why_not is not None
    assert "is not known" in unknown.why_not


def test_sigmoids_of_classes_are_no_logits() -> None:
    weight = torch.randn(3, 3, requires_grad=True)
    small = (values(3).sigmoid() / 4 + 0.3).detach()  # logits that happen to lie in [0, 1]

    def settled(graph: Any, **said: Any) -> Outputs:
        runs = Runs([graph()[:1].detach(), graph().detach()], [1, N], (), graph)
        return settle_outputs(runs, summarise_targets(THREE), Stated(**said))

    def sigmoids() -> torch.Tensor:
        return (values(3) @ weight).sigmoid()

    made = settled(sigmoids)
    assert made.task is None
    assert made.notes == ()
    assert "as those of a sigmoid do" in (made.why_not or "")
    assert settled(sigmoids, logits=torch.logit).why_not is None
    assert settled(sigmoids, trusted=True).why_not is None  # as it is trained
    logits = settled(lambda: small * weight.square().mean() / weight.square().mean().detach())
    assert (logits.task, logits.form) == ("classes", "logits")
    assert any("are taken for logits; if they are probabilities" in note for note in logits.notes)
    assert "is not known" in (settled(lambda: small).why_not or "")
    assert settled(lambda: values(3) @ weight * 0).why_not is None
    softmax = settled(lambda: (values(3) @ weight).softmax(1))
    assert (softmax.task, softmax.form) == ("classes", "probabilities")


def test_predictions_and_classes() -> None:
    binary = verdict(rows(1), THREE > 0)
    assert binary.classes == 2
    assert binary.predicted(torch.tensor([[[0.2], [-0.2]]])).tolist() == [[1, 0]]
    several = torch.stack([values(3), -values(3)])  # of two filter sets
    assert torch.equal(verdict(rows(3), THREE).predicted(several), several.argmax(2))
    one_hot = verdict(rows(3), F.one_hot(THREE))
    assert torch.equal(one_hot.true_classes(F.one_hot(THREE)), THREE)
    assert torch.equal(one_hot.predicted(values(3)), values(3).argmax(1))


def test_masks_of_several_labels_are_told_from_one_hot_masks() -> None:
    several = verdict(rows(3, 4, 4), (values(3, 4, 4) > 0).float())
    assert (several.task, several.shape) == ("labels", (3, 4, 4))
    index = torch.arange(N * 16).view(N, 4, 4) % 3
    one_hot = F.one_hot(index).movedim(-1, 1)
    one = verdict(rows(3, 4, 4), one_hot)
    assert (one.task, one.labels) == ("classes", "one-hot")
    assert verdict(rows(3, 4, 4), index).labels == "index"


def test_outputs_are_described_as_a_user_would_name_them() -> None:
    assert describe(None) == "None"
    assert describe((values(3), {"a": values(2)})) == "a tuple of 0 (6, 3), 1.a (6, 2)"
    assert describe([values(1)] * 2 + [values(k) for k in range(2, 8)]).endswith("and 3 more")


@pytest.mark.parametrize(
    ("make", "targets", "about"),
    [
        (rows(1), torch.tensor([3, 41, 97, 18, 60, 55]), "task"),
        (rows(1), torch.tensor([0, 1, 1, 0, 1, 255]), "label"),
        (rows(1), torch.arange(N * 10) % 10, None),  # a discriminator's, whose inputs have classes
        (rows(3), torch.tensor([0.0, 1, 2, 0, 1, 2]), "task"),
        (rows(2), THREE, None),  # an embedding's
        (rows(3, 4, 4), torch.arange(N * 16).view(N, 4, 4) % 3 + 253, "label"),
    ],
)
def test_who_reads_targets_alone_need_not_care_for_every_mistake(make: Any, targets: Any, about: Any) -> None:
    found = verdict(make, targets)
    assert found.mistake
    assert found.about == about
    summary = summarise_targets(targets)
    assert (found.doubt(summary, None, task_is_known=False) is not None) is (about is not None)
    assert (found.doubt(summary, None, task_is_known=True) is not None) is (about == "label")


def test_without_targets_only_the_user_can_say_what_are_logits() -> None:
    assert "no targets" in (verdict(rows(3), None).why_not or "")
    assert verdict(rows(3), None, Stated(logits=lambda out: out)).why_not is None
    assert verdict(lambda n: {"logits": values(3)[:n]}, None).why_not is None
    assert "several tensors" in (verdict(pair, None).unclear or "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_probabilities_and_embeddings(dtype: torch.dtype) -> None:
    wide, labels = values(200).softmax(1).to(dtype), torch.arange(200)
    found = settle_outputs(Runs([wide], [N]), summarise_targets(labels))
    assert found.form == "probabilities"
    normal = F.normalize(values(200), dim=1).to(dtype)
    assert "length one" in (settle_outputs(Runs([normal], [N]), summarise_targets(labels)).why_not or "")
