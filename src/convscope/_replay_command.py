"""``convscope replay CHECKPOINTS``: the checks of a run from its saved checkpoints."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from convscope._imported import called, imported
from convscope._outputs import writable_folder
from convscope._terminal import show
from convscope.dashboard.story import sentences

_MODULE = "my_project.model:LitNet"
_DATA = "my_project.data:MyDataModule"


def add_to(commands: Any) -> None:
    """Add the command to those of the parser."""
    replay = commands.add_parser("replay", help="make the checks of a run from its checkpoints")
    replay.add_argument("checkpoints", nargs="+", metavar="CHECKPOINTS", help="a folder with *.ckpt files, or files")
    replay.add_argument("--module", metavar="package.module:Class", help="the LightningModule, or a factory of it")
    replay.add_argument(
        "--data", metavar="package.module:Class", help="a DataModule, or a factory of validation loaders"
    )
    replay.add_argument("--config", type=Path, metavar="config.yaml", help="LightningCLI's, for its model and data")
    replay.add_argument("--suite", choices=("light", "standard", "full"), default="standard")
    replay.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    replay.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: replay beside the checkpoints")
    replay.add_argument("--trust", action="store_true", help="read checkpoints that may run code (weights_only=False)")
    replay.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    import convscope
    from convscope.callbacks.engine.hierarchies import both

    module, data = _module_and_data(options)
    if options.output is not None:
        writable_folder(options.output, "-o")
    source = options.checkpoints[0] if len(options.checkpoints) == 1 else options.checkpoints
    try:
        run = convscope.replay(
            source,
            module,
            data,
            callbacks=options.suite,
            folder=options.output,
            accelerator=options.device,
            weights_only=not options.trust,
        )
    except both(MisconfigurationException) as error:
        raise ValueError(_with_flag(str(error))) from error
    show("\n".join(sentences(run, run.folder.name)))
    show(f"\nSee it all:  tensorboard --logdir {run.folder}")
    return 0


def _module_and_data(options: argparse.Namespace) -> tuple[Any, Any]:
    if options.config is None and options.module is None:
        raise ValueError(f"which network was trained? Give --module, for example {_MODULE}, or LightningCLI's --config")
    if options.config is not None:
        from convscope._configured import configured

        return configured(options.config, options.module, options.data)
    return _module(options.module), _data(options.data)


def _module(path: str) -> Any:
    import lightning.pytorch as pl

    from convscope.callbacks.engine.hierarchies import both

    kinds = both(pl.LightningModule)
    found = imported(path, _MODULE)
    if not (inspect.isclass(found) and issubclass(found, kinds)):
        found = called(found, path) if callable(found) else found
        if not isinstance(found, kinds):
            raise ValueError(f"{path!r} gave a {type(found).__name__}; it must be a LightningModule, or return one")
    return found


def _data(path: str | None) -> Any:
    if path is None:
        return None
    found = imported(path, _DATA)
    made = called(found, path) if callable(found) else found
    if made is not None and not hasattr(made, "val_dataloader") and not hasattr(made, "__iter__"):
        raise ValueError(
            f"{path!r} gave a {type(made).__name__}; it must be a DataModule, or return validation loaders"
        )
    return made


def _with_flag(message: str) -> str:
    """The message, with the option of the command line where Python's argument means nothing."""
    if "HeldOut has no source" not in message:
        return message.replace("weights_only=False", "--trust")
    return f"there is no validation loader; give --data, for example {_DATA}, a DataModule with val_dataloader()"
