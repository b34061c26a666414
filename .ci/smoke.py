"""A training run with the standard suite, then its record, report and rules, with the packages that are found first.

``python smoke.py [name==version …]`` in an empty folder; versions that are named must be those that are imported.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version
from pathlib import Path

import lightning as L

import convscope
from convscope.__main__ import main
from convscope.recipes.digits import DigitsCNN, digits_loaders

MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}

if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        name, _, number = wanted.partition("==")
        imported = getattr(importlib.import_module(MODULES.get(name, name)), "__version__", number)
        assert {version(name), imported} == {number}, f"{name} is {version(name)}, imported {imported}, not {number}"
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        enable_progress_bar=False,
        callbacks=convscope.suite("standard", on_error="raise"),
    )
    trainer.fit(DigitsCNN(), *digits_loaders())
    run = convscope.read_run(trainer.log_dir)
    assert run.triggers == ["start", "validation"], run.triggers
    assert set(run.families) >= {"probe", "importance", "correlation", "drift", "health"}, run.families
    assert run.pictures or any(Path(trainer.log_dir).glob("*tfevents*"))
    assert main(["report", trainer.log_dir, "-o", "report.html"]) == 0
    assert main(["rules", "test", "default", trainer.log_dir]) == 0
    print(f"trained and read with convscope {convscope.__version__} from {Path(convscope.__file__).parent}")
