"""The model and the data of a LightningCLI's YAML file, without its trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml


def configured(path: Path, module: str | None, data: str | None) -> tuple[pl.LightningModule, Any]:
    """The LightningModule and the DataModule (None if there is none) that a file describes.

    Args:
        path: The file, such as the ``config.yaml`` that LightningCLI saves beside a run.
        module: Class of the model if the file names none: ``package.module:Class``.
        data: Class of the data likewise.

    Raises:
        ValueError: if the file cannot be read, or does not describe a model.
        ImportError: if jsonargparse is missing.
    """
    content = _read(path)
    parts = {"model": _with_class(content.get("model"), module, path, "model")}
    if "data" in content or data is not None:
        parts["data"] = _with_class(content.get("data"), data, path, "data")
    made = _made(parts, path)
    return made["model"], made.get("data")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise ValueError(f"{path}: this cannot be read ({why}); give LightningCLI's config.yaml of a run") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: this is not YAML that the safe loader reads: {error}") from error
    if not isinstance(content, dict) or "model" not in content:
        raise ValueError(f"{path}: there is no 'model' in it: give the config.yaml that LightningCLI has saved")
    return content


def _with_class(section: Any, named: str | None, path: Path, key: str) -> dict[str, Any]:
    """A section in the form ``{class_path, init_args}``."""
    if isinstance(section, str):
        return {"class_path": section}
    if isinstance(section, dict) and "class_path" in section:
        return section
    if named is None:
        flag = "--module" if key == "model" else "--data"
        raise ValueError(f"{path}: {key!r} names no class_path: give its class too, {flag} package.module:Class")
    return {"class_path": named.replace(":", "."), "init_args": section or {}}


def _made(parts: dict[str, dict[str, Any]], path: Path) -> dict[str, Any]:
    try:
        from jsonargparse import ArgumentParser
    except ImportError as error:
        raise ImportError("--config needs jsonargparse: pip install 'convscope[cli]'") from error
    parser = ArgumentParser(exit_on_error=False)
    for key, kind in (("model", pl.LightningModule), ("data", pl.LightningDataModule)):
        if key in parts:
            parser.add_subclass_arguments(kind, key)
    try:
        make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the name before 4.49
        found = make(parser.parse_object(parts))
    except Exception as error:
        raise ValueError(f"{path}: {error}") from error
    return {key: found[key] for key in parts}
