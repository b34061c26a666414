"""Names of classes: given, found in data sets of every usual kind, and refused where their number is wrong."""

from __future__ import annotations

import doctest
import types
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, random_split

import convscope
from convscope.capture.data import class_names
from convscope.capture.data.class_names import names_in
from convscope.capture.data.heldout import HeldOut

NAMES = ("ant", "bee", "cow")


class Named(TensorDataset):
    classes = NAMES


class Wrapper:
    """Any wrapper that keeps what it wraps under the customary name."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> Any:
        return self.dataset[place]


def named(labels: Any = None) -> Named:
    return Named(torch.randn(12, 3, 4, 4), torch.arange(12) % 3 if labels is None else labels)


def test_examples_run() -> None:
    assert doctest.testmod(class_names).failed == 0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data,
        lambda data: Subset(data, range(9)),
        lambda data: random_split(data, [6, 6])[0],
        lambda data: ConcatDataset([data, Subset(data, range(6))]),
        lambda data: Subset(ConcatDataset([Wrapper(data)]), range(9)),
        lambda data: DataLoader(Subset(data, range(9)), batch_size=4),
        lambda data: Wrapper(Wrapper(data)),
    ],
)
def test_a_data_sets_own_names_are_found_through_wrappers(wrap: Any) -> None:
    heldout = HeldOut(wrap(named()))
    heldout.prepare()
    assert [heldout.class_label(label) for label in range(3)] == list(NAMES)
    assert heldout.class_label(7) == "7"


def test_other_customs() -> None:
    hugging_face = types.SimpleNamespace(features={"label": types.SimpleNamespace(names=list(NAMES)), "image": None})
    assert names_in(hugging_face) == NAMES
    synonyms = types.SimpleNamespace(classes=[("tench", "Tinca tinca"), ("goldfish",)])
    assert names_in(synonyms) == ("tench", "goldfish")
    for classes in (3, "abc", [0, 1], ["one"], None, {"ant": 0, "bee": 1}):
        assert names_in(types.SimpleNamespace(classes=classes)) is None
    other = named()
    other.classes = ("x", "y", "z")
    assert names_in(ConcatDataset([named(), other])) is None  # they do not agree
    loop = Wrapper(None)
    loop.dataset = loop
    assert names_in(loop) is None


def test_names_that_do_not_fit_the_labels_are_dropped_if_found_and_refused_if_given() -> None:
    labels = torch.arange(12) % 4
    heldout = HeldOut(named(labels))
    heldout.prepare()
    assert heldout.class_label(0) == "0"
    given = HeldOut(named(labels), class_names=NAMES)
    with pytest.raises(ValueError, match="3 names, but a held-out label is 3; give one name a class"):
        given.prepare()
    rows = torch.nn.functional.one_hot(torch.arange(12) % 4).float()
    with pytest.raises(ValueError, match="3 names, but a target is a row of 4 classes"):
        HeldOut((torch.randn(12, 3, 4, 4), rows), class_names=NAMES).prepare()


def test_names_of_listed_classes_and_of_signs() -> None:
    labels = torch.tensor([3, 7, 9])[torch.arange(12) % 3]
    heldout = HeldOut(TensorDataset(torch.randn(12, 3), labels), classes=[3, 7, 9], class_names=NAMES)
    heldout.prepare()
    assert [heldout.class_label(label) for label in (3, 7, 9, 4)] == [*NAMES, "4"]
    signs = HeldOut((torch.randn(12, 3), torch.arange(12) % 2 * 2 - 1), class_names=["no", "yes"])
    signs.prepare()
    assert [signs.class_label(label) for label in (0, 1)] == ["no", "yes"]


@pytest.mark.parametrize("names", ["abc", ["one"], [1, 2], [], ["a", ""], {"a": 1}, 3])
def test_what_is_no_list_of_names_is_refused(names: Any) -> None:
    with pytest.raises(ValueError, match=r"HeldOut\(class_names=.*: give a list of at least two texts"):
        HeldOut(class_names=names)


@pytest.mark.parametrize("classes", [4, [1, 2]])
def test_names_and_stated_classes_must_agree(classes: Any) -> None:
    with pytest.raises(ValueError, match=r"HeldOut\(class_names\) has 3 names, but classes= says"):
        HeldOut(class_names=NAMES, classes=classes)


def test_names_and_the_models_outputs_must_agree() -> None:
    import lightning as L

    from tests.callbacks.conftest import Classifier
    from tests.networks import Plain, images

    inputs, _ = images(12)
    loader = DataLoader(TensorDataset(inputs, torch.arange(12) % 3), batch_size=6)
    heldout = convscope.HeldOut(class_names=[*NAMES, "dog"])
    trainer = L.Trainer(
        max_epochs=1, callbacks=[convscope.LayerPrediction(heldout=heldout)], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(Exception, match="4 names, but the model's outputs tell 3 classes apart"):
        trainer.fit(Classifier(Plain(channels=3)), loader, loader)
