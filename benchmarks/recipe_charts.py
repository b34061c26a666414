"""Runs of the recipes, and charts of what they print."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageChops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import convscope
from convscope.recipes import freeze_guide as freezing
from convscope.recipes import label_noise as noise
from convscope.recipes import pruning_guide as pruning
from convscope.recipes import width_and_depth as advisor
from convscope.recipes.digits import digits_loaders

YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
ROOT = Path(__file__).parents[1]


def run(recipe: str, runs: Path, *arguments: str, folder: str = "") -> str:
    """What a recipe prints; it is not run again if its folder is there and nothing but its files is asked for."""
    if (runs / (folder or recipe)).exists():
        return ""
    command = [sys.executable, "-m", f"convscope.recipes.{recipe}", *arguments, "--logdir", str(runs)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    (runs / f"{recipe}.txt").write_text(done.stdout, encoding="utf-8")
    return done.stdout


def events(folder: Path) -> EventAccumulator:
    """Everything in the newest event files below a run's folder."""
    versions = sorted(folder.glob("version_*")) or [folder]
    return EventAccumulator(str(versions[-1]), size_guidance={"images": 0, "scalars": 0}).Reload()


def maps_beside(folder: Path, tags: list[str], path: Path) -> None:
    """Write the last pictures under some tags of a run, side by side."""
    found = events(folder)
    pictures = [Image.open(io.BytesIO(found.Images(tag)[-1].encoded_image_string)).convert("RGB") for tag in tags]
    page = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)), "white")
    left = 0
    for picture in pictures:
        page.paste(picture, (left, 0))
        left += picture.width
    _save(page, path)


def _save(page: Image.Image, path: Path) -> None:
    """Without white space below, with a palette, which these pictures hardly notice."""
    _, _, _, bottom = ImageChops.invert(page).getbbox() or (0, 0, 0, page.height)
    page = page.crop((0, 0, page.width, min(bottom + 8, page.height)))
    page.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def _draw(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    _save(Image.open(buffer).convert("RGB"), path)


def _figure(width: float = 7.5, height: float = 3.2) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def label_noise(runs: Path, path: Path) -> None:
    """The samples to look at first, and how far belief separates wrong labels from right ones."""
    _, trust, wrong = noise.train(8, 0.1, runs)
    noise.report(trust, wrong)
    data, _ = noise.with_wrong_labels(digits_loaders()[0].dataset, 0.1)  # type: ignore[arg-type]
    belief = (trust.by_layers / trust.checks).numpy()
    figure = _figure()
    grid, chart = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    for axes, row in zip(np.ravel(grid.subplots(2, 5)), np.argsort(belief, kind="stable")[:10], strict=True):
        image, label = data[int(trust.numbers[row])]
        axes.imshow(image[0], cmap="gray")
        axes.set_title(f'"{int(label)}"', color="C3" if wrong[row] else "C0", fontsize=10)
        axes.axis("off")
    grid.suptitle("least believed, with the label given", fontsize=10)
    axes = chart.subplots()
    bins = np.linspace(0, 1, 31).tolist()
    axes.hist([belief[~wrong.numpy()], belief[wrong.numpy()]], bins, stacked=True, color=["C0", "C3"])
    axes.legend(["right label", "wrong label"], fontsize=8)
    axes.set(xlabel="mean belief of layers in the label", ylabel="training samples")
    _draw(figure, path)


def pruning_guide(runs: Path, path: Path) -> None:
    """Accuracy of the smaller networks, by the order in which filters were chosen."""
    trainer, model = pruning.train(8, runs)
    found = pruning.report(model, str(trainer.log_dir), 0.25)
    figure = _figure()
    axes = figure.subplots()
    for number, order in enumerate(pruning.ORDERS):
        values = [found[layer][order] for layer in found]
        axes.bar(np.arange(len(found)) + 0.2 * number - 0.3, values, 0.2, label=order)
    axes.axhline(pruning.accuracy(model, digits_loaders()[1]), color="black", lw=0.8, ls=":", label="all filters")
    axes.set_xticks(range(len(found)), list(found))
    axes.set(ylabel="accuracy", title="without a quarter of one layer's filters, chosen by …", ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _draw(figure, path)


def freeze_guide(runs: Path, path: Path) -> None:
    """Similarity to the previous check, and when each unit was frozen."""
    trainer, freeze, _ = freezing.train(20, 0.995, 3, runs)
    record = convscope.read_run(str(trainer.log_dir))
    similarity = record.values("drift", "cka_previous")
    figure = _figure()
    axes = figure.subplots()
    for number, layer in enumerate(name for name in record.layers if name != "output"):
        values = similarity[1:, record.layers.index(layer)]
        axes.plot(values, color=f"C{number}", label=layer)
        if (epoch := freeze.frozen.get(layer.split(".")[1])) is not None:
            axes.plot(epoch, values[epoch], "s", color=f"C{number}")
    axes.axhline(0.995, color="black", lw=0.8, ls=":")
    axes.set(
        xlabel="epoch", ylabel="CKA with the previous check", ylim=(0.85, 1.005), title="squares: frozen from here on"
    )
    axes.set_xticks(range(0, 20, 2))
    axes.legend(fontsize=8)
    _draw(figure, path)


def width_and_depth(runs: Path, path: Path) -> None:
    """What each of nine narrow layers adds, and the accuracy of networks made by the advice."""
    trainer = advisor.train(6, 9, 8, runs)
    record = convscope.read_run(str(trainer.log_dir))
    idle, _ = advisor.advice(record)
    layers = [name for name in record.layers if name != "output"]
    accuracy = record.values("probe", "accuracy")[-1]
    others = {
        f"{width} × {depth}": _accuracy(advisor.train(width, depth, 8, runs)) for width, depth in ((6, 3), (12, 3))
    }
    figure = _figure()
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    colours = ["C7" if layer in idle else "C0" for layer in layers]
    left.bar(range(len(layers)), [accuracy[record.layers.index(layer)] for layer in layers], color=colours)
    left.set_xticks(range(len(layers)), [layer.split(".")[1] for layer in layers])
    left.set(xlabel="layer features.n.0 (grey: adds nothing)", ylabel="probe accuracy", ylim=(0, 1))
    values = {"6 × 9": _accuracy(trainer), **others}
    right.bar(list(values), list(values.values()), color=["C0", "C7", "C2"])
    right.set(xlabel="filters × layers", ylabel="accuracy of the network", ylim=(0, 1))
    _draw(figure, path)


def _accuracy(trainer: Any) -> float:
    return float(trainer.callback_metrics["val_acc"])


def self_supervised(runs: Path, path: Path) -> None:
    """Probe accuracy of classes that the network never saw, by layer, over training."""
    run("self_supervised", runs)
    record = convscope.read_run(str(sorted((runs / "self_supervised").glob("version_*"))[-1]))
    figure = _figure()
    axes = figure.subplots()
    for layer, values in zip(record.layers, record.values("probe", "accuracy").T, strict=True):
        axes.plot(record.epochs, values, "o-", ms=3, label=layer)
    axes.axhline(0.1, color="black", lw=0.8, ls=":", label="chance")
    axes.set(xlabel="epochs trained", ylabel="probe accuracy of digits", ylim=(0, 1), title="trained on angles alone")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _draw(figure, path)


def sweep(runs: Path, path: Path) -> None:
    """The probe that decides, of each candidate until it was stopped, and its validation accuracy."""
    run("sweep", runs)
    figure = _figure(height=3.6)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for number, folder in enumerate(sorted((runs / "sweep").iterdir())):
        found = events(folder)
        for axes, tag in zip(panels, ("probe/accuracy/features.4.0", "val_acc"), strict=True):
            by_step = {event.step: event.value for event in found.Scalars(tag) if event.step}
            steps = sorted(by_step)
            epochs = [round((step + 1) / 21) for step in steps]
            style = "o--" if folder.name.endswith("=8") else "o-"
            axes.plot(
                epochs, [by_step[step] for step in steps], style, ms=4, color=f"C{number // 2}", label=folder.name
            )
    panels[0].set(
        xlabel="epochs trained", ylabel="accuracy", ylim=(0, 1.02), title="probe of the last conv layer: decides"
    )
    panels[1].set(xlabel="epochs trained", title="the network's own accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=4)
    _draw(figure, path)


def processes(runs: Path, path: Path) -> None:
    """Values of one process and of two, from the tables that the recipe prints."""
    tables = []
    for devices in (1, 2):
        run("processes", runs, "--devices", str(devices), folder=f"processes_{devices}")
        kept, printed = runs / f"processes_{devices}.txt", runs / "processes.txt"
        if not kept.exists():
            printed.rename(kept)
        rows = re.findall(r"^\| (\S+) \| ([\d.]+) \|$", kept.read_text(encoding="utf-8"), re.MULTILINE)
        tables.append({name: float(value) for name, value in rows})
    one, two = tables
    figure = _figure()
    axes = figure.subplots()
    for shift, table, label in ((-0.2, one, "1 process"), (0.2, two, "2 processes")):
        axes.barh(np.arange(len(one)) + shift, [table[name] for name in one], 0.4, label=label)
    axes.set_yticks(range(len(one)), list(one), fontsize=8)
    axes.invert_yaxis()
    difference = max(abs(one[name] - two[name]) for name in one)
    axes.set(xlabel="value", title=f"largest difference {difference:.6f}")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _draw(figure, path)


def configured(runs: Path, path: Path) -> None:
    """Learning maps of the run that the YAML file in docs/recipes.md describes."""
    from convscope.recipes import configured as recipe

    file = YAML.search((ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"))
    assert file is not None
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "digits.yaml").write_text(file[1], encoding="utf-8")
    folder = runs / "configured"
    if not folder.exists():
        recipe.main(["fit", "--config", str(runs / "digits.yaml"), "--trainer.default_root_dir", str(folder)])
    maps_beside(folder / "lightning_logs", ["probe_logistic/map/accuracy", "health/map/dead_filters"], path)


def folder_of_images(folder: Path, stored: Path) -> Path:
    """A folder with a subfolder of 200 pictures for each of four classes, from CIFAR-10."""
    with np.load(stored) as data:
        names, images, labels = [str(name) for name in data["classes"]], data["x_train"], data["y_train"]
    for name in ("airplane", "ship", "cat", "horse"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images[labels == names.index(name)][:200]):
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
