"""The recipe for CIFAR-10: where its images come from, and that it trains."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from convscope.recipes import cifar10

CLASSES = ["cat", "dog", "ship"]


def a_few(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), (np.arange(count) % 3).astype(np.uint8)


def stored(folder: Path) -> Path:
    (x_train, y_train), (x_test, y_test) = a_few(60, 0), a_few(30, 1)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    np.savez(folder / cifar10.FILE, **arrays, classes=np.array(CLASSES))
    return folder


def test_a_stored_file_trains(tmp_path: Path) -> None:
    training, heldout, names = cifar10.read_images(stored(tmp_path))
    assert names == CLASSES
    assert training.tensors[0].shape == (60, 3, 32, 32)
    assert float(training.tensors[0].mean()) == pytest.approx(0.1, abs=0.2)  # normalised: noise of mean one half
    trainer = cifar10.train((training, heldout, names), "light", 1, tmp_path)
    assert "probe/accuracy/features.3.skip" in trainer.callback_metrics


def test_without_images_it_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"cifar10_12k.npz: give its folder as --data|add --download"):
        cifar10.read_images(tmp_path)


def test_torchvision_s_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    names = {"train": ["data_batch_1"], "test": ["test_batch"]}
    for kind, (images, labels) in {"train": a_few(6, 0), "test": a_few(3, 1)}.items():
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (folder / names[kind][0]).write_bytes(pickle.dumps({"data": rows, "labels": labels.tolist()}))
        monkeypatch.setattr(datasets.CIFAR10, f"{kind}_list", [[names[kind][0], None]])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
    training, heldout, found = cifar10.read_images(tmp_path)
    expected = torch.from_numpy(a_few(6, 0)[0]).permute(0, 3, 1, 2).float() / 255
    std, mean = (torch.tensor(part).view(-1, 1, 1) for part in (cifar10.CHANNEL_STD, cifar10.CHANNEL_MEAN))
    torch.testing.assert_close(training.tensors[0] * std + mean, expected)
    assert (found, heldout.tensors[1].tolist()) == (CLASSES, [0, 1, 2])


def test_images_are_moved_by_whole_pixels() -> None:
    images = torch.rand(4, 3, 32, 32)
    moved = cifar10._moved(images)
    assert moved.shape == images.shape
    assert set(moved.unique().tolist()) <= {*images.unique().tolist(), 0.0}
