"""Recorded runs as the commands are given them: a run's folder, a folder with several runs, an event file."""

from __future__ import annotations

from pathlib import Path

from convscope.dashboard import Run, find_runs

_MOST = 20  # runs in one report or comparison


def opened(paths: list[str]) -> dict[str, Run]:
    """Records by names that tell them apart.

    Raises:
        ValueError: if a folder holds no record, or too many; it says what to give.
        FileNotFoundError: if there is no such folder.
    """
    folders = [folder for path in paths for folder in _folders(Path(path))]
    unique = list(dict.fromkeys(folders))
    if len(unique) > _MOST:
        raise ValueError(f"there are {len(unique)} runs: name at most {_MOST} of them, for example {unique[0]}")
    return {name: Run(folder) for name, folder in zip(_names(unique), unique, strict=True)}


def _folders(path: Path) -> list[Path]:
    if path.is_file() and "tfevents" not in path.name:
        raise ValueError(f"{path}: this is no event file; give a run's folder, for example lightning_logs/version_0")
    folder = path.parent if path.is_file() else path
    try:
        found = find_runs(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; give a run's folder, for example lightning_logs/version_0") from error
    if found:
        return [found["."]] if "." in found else list(found.values())
    if any(folder.rglob("*tfevents*")):
        raise ValueError(
            f"{path}: its event files hold no record of convscope: train with its callbacks "
            "(Trainer(callbacks=convscope.suite())), then give the run's folder"
        )
    raise ValueError(
        f"{path}: there is no run here: give the folder that TensorBoard is started with, or that of one run, for "
        "example lightning_logs/version_0"
    )


def _names(folders: list[Path]) -> list[str]:
    """The ends of paths that are needed to tell folders apart, two parts at least."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(2, max(map(len, parts)) + 1):
        names = ["/".join(found[-length:]) for found in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
