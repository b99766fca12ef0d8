"""What methods of a stage cannot do beside each other, or on what the stage trains on, whatever the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertpress.errors import DataError, RecipeError
from bertpress.methods.base import Method, Need
from bertpress.tasks import resolve

if TYPE_CHECKING:
    from bertpress.recipe import Stage


def check_stage(stage: Stage, place: str) -> None:
    """Refuse a stage that cannot work.

    Args:
        stage: of a recipe.
        place: how messages begin.

    Raises:
        RecipeError: naming the method.
    """
    _check_data(stage, place)
    _check_tasks(stage, place)
    _check_together(stage, place)
    _check_augmented(stage, place)


def check_grids(stage: Stage, place: str, rounded: str | None) -> None:
    """Refuse to take weights off the grids that an earlier stage has put them on, where none trains them anew.

    Args:
        stage: of a recipe.
        place: how messages begin.
        rounded: the method that has put them there; None: there is none, or the weights were trained since.

    Raises:
        RecipeError: naming the method.
    """
    if rounded is None or stage.train is not None or stage.start == "pretrained":
        return
    for name, method in stage.methods:
        if method.cuts() or method.moves:
            why = f"takes weights off the grids of {rounded}; let that follow"
            raise RecipeError(f"{place}, {name}: {why}")


def _check_data(stage: Stage, place: str) -> None:
    """Refuse methods that cannot learn from what the stage trains on."""
    unlabelled = stage.data == "unlabelled"
    alone = [name for name, method in stage.methods if method.unsupervised]
    told = [name for name, method in stage.methods if method.learns_task()]
    if alone and told:
        raise RecipeError(f"{place}: {alone[0]} learns apart from {told[0]}; give each a stage of its own")
    for name, method in stage.methods:
        if Need.UNLABELLED in method.requires and not unlabelled:
            raise RecipeError(f"{place}, {name}: needs a stage with data: unlabelled")
        if method.learns_task() and unlabelled and not method.guessers():
            raise RecipeError(f"{place}, {name}: learns the task, which data=unlabelled does not tell")
        if method.supervises and method.learns_task() and not unlabelled and stage.teacher == "pretrained":
            wanted = "say original, previous or the folder of a model"
            raise RecipeError(f"{place}, {name}: teacher=pretrained answers no task; {wanted}")
    if not unlabelled:
        return
    if stage.train is None or stage.train.select == "best":
        raise RecipeError(f"{place}: data=unlabelled needs a train section, with select: last")
    if not any(type(method).objectives is not Method.objectives for _, method in stage.methods):
        raise RecipeError(f"{place}: data=unlabelled has nothing to learn; use distill/mlm or follow a teacher")


def _check_augmented(stage: Stage, place: str) -> None:
    """Refuse to add rows that only a teacher can label where nothing follows one."""
    if any(method.follows_teacher() for _, method in stage.methods):
        return
    for name, method in stage.methods:
        if type(method).training_rows is not Method.training_rows:
            wanted = "add a method that follows the teacher, such as distill/logits"
            raise RecipeError(f"{place}, {name}: nobody labels what it adds; {wanted}")


def _check_together(stage: Stage, place: str) -> None:
    """Refuse methods that disturb each other."""
    passing = [name for name, method in stage.methods if method.brings_passes()]
    if len(passing) > 1:
        raise RecipeError(f"{place}: {' and '.join(passing)} cannot share a training step")
    cutting = [name for name, method in stage.methods if method.cuts_late()]
    if len(cutting) > 1:
        raise RecipeError(
            f"{place}: {' and '.join(cutting)} both cut when the stage ends; give each a stage of its own"
        )
    for i, (name, method) in enumerate(stage.methods):
        for j, (other, beside) in enumerate(stage.methods):
            if method.reshapes and i != j and Need.TOKENS in beside.requires:
                why = f"{name} runs fewer layers or heads at some steps; leave one of them out"
                raise RecipeError(f"{place}, {other}: compares layers, and {why}")
            if method.cuts_late() and beside.quantizes and (j < i or type(beside).attach is not Method.attach):
                raise RecipeError(f"{place}, {name}: cuts weights that {other} quantizes; give that a later stage")


def _check_tasks(stage: Stage, place: str) -> None:
    """Refuse other tasks that the stage cannot learn."""
    for task in stage.tasks:
        try:
            known = resolve(task)
        except DataError as fault:
            raise RecipeError(f"{place}, tasks: {fault}") from None
        if known.label_column is None:
            raise RecipeError(f"{place}, tasks.{task}: has no labels, so that no teacher answers it")
    if not stage.tasks:
        return
    if stage.train is None or stage.data == "unlabelled":
        raise RecipeError(f"{place}, tasks: need a train section, and data: task")
    if not any(method.supervises and Need.TEACHER in method.requires for _, method in stage.methods):
        raise RecipeError(f"{place}, tasks: need a method that learns their teachers' answers, such as distill/logits")
    for name, method in stage.methods:
        if method.brings_passes():
            raise RecipeError(f"{place}, tasks: {name} trains its own passes, which other tasks cannot share")
