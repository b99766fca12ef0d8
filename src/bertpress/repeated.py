"""Stages that another run has done already: a run that begins with the same takes their models over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bertpress.artifact.folder import staged
from bertpress.runfolder import IDENTITY, RunFolder, differences


def take_over(folder: RunFolder, known: Path, say: Callable[[str], None]) -> None:
    """Copy the finished stages with which both runs begin; those that are there already stay.

    Args:
        folder: of the run that begins.
        known: folder of the other; nothing is taken where it is no run, or has another model, task, fine-tuning,
            teacher or seed.
        say: is told of each in a line.

    Raises:
        UserError: the other's identity is damaged.
        MachineError: no space, no permission.
    """
    if not (known / IDENTITY).is_file():
        return
    mine, theirs = folder.read(IDENTITY), RunFolder(known).read(IDENTITY)
    ours, others = mine.pop("recipe"), theirs.pop("recipe")
    if any(differences([mine, ours["fine_tune"]], [theirs, others["fine_tune"]])):
        return
    for number, (stage, other) in enumerate(zip(ours["stages"], others["stages"], strict=False), start=1):
        name = f"{number:02d}-{stage['name']}"
        source, place = known / "stages" / name, folder / f"stages/{name}"
        if stage != other or not (source / "model").is_dir():
            break
        if not place.exists():
            with staged(place) as partial:
                shutil.copytree(source, partial, ignore=shutil.ignore_patterns("training"), dirs_exist_ok=True)
            say(f"stage {stage['name']} is that of {known}")
