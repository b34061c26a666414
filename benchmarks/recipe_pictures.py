"""The expected picture of every recipe, drawn from a real run of it with its default options.

``python -m benchmarks.recipe_pictures docs/images/recipes --runs RUNS`` (``--only digits sweep`` for some of them). A
recipe whose result is in TensorBoard shows convscope's own pictures of its last check, side by side; one whose result
is a printed table gets a chart of the same numbers. The runs stay below ``--runs``; a run that is there is not made
again if its pictures can be made from its files. Images of CIFAR-10 are looked for in the folder that
``CONVSCOPE_DATA`` names; without them the recipes that want them are left out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import recipe_charts as charts
from benchmarks.recipe_charts import maps_beside

CIFAR = Path(os.environ.get("CONVSCOPE_DATA", ".")) / "cifar10_12k.npz"


# Two of convscope's own pictures of each of these runs, side by side.
MAPS = {
    "digits": ("probe/map/accuracy", "drift/map/cka_previous"),
    "cifar10": ("probe/map/accuracy", "drift/map/cka_previous"),
    "dying_relu": ("health/map/dead_filters", "probe/map/accuracy"),
    "label_corruption": ("probe/map/accuracy", "drift/map/cka_previous"),
    "forgetting": ("probe/map/accuracy", "drift/map/cka_first"),
    "segmentation": ("probe/map/miou", "correlation/map/effective_rank_ratio"),
}


def maps(recipe: str, runs: Path, path: Path) -> None:
    charts.run(recipe, runs)
    maps_beside(runs / recipe, [*MAPS[recipe]], path)


def image_folder(runs: Path, path: Path) -> None:
    folder = charts.folder_of_images(runs / "images" / "vehicles_and_animals", CIFAR)
    charts.run("image_folder", runs, str(folder), folder=folder.name)
    maps_beside(runs / folder.name, ["probe/map/accuracy", "health/map/dead_filters"], path)


RECIPES: dict[str, Callable[[Path, Path], None]] = {recipe: partial(maps, recipe) for recipe in MAPS}
RECIPES |= {
    "image_folder": image_folder,
    "label_noise": charts.label_noise,
    "pruning_guide": charts.pruning_guide,
    "freeze_guide": charts.freeze_guide,
    "width_and_depth": charts.width_and_depth,
    "self_supervised": charts.self_supervised,
    "sweep": charts.sweep,
    "processes": charts.processes,
    "configured": charts.configured,
}
NEED_CIFAR = ("cifar10", "image_folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pictures", type=Path, help="folder of the pictures")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default runs)")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), help="recipes (default all)")
    options = parser.parse_args()
    options.pictures.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        if name in NEED_CIFAR and not CIFAR.exists():
            print(f"{name}: left out, {CIFAR} is not there")
            continue
        path = options.pictures / f"{name.replace('_', '-')}.png"
        RECIPES[name](options.runs, path)
        print(f"{name}: {path}, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
