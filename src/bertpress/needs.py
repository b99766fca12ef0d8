"""What a recipe needs of the machine, the task and the teacher, told before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertpress.data import Data
from bertpress.encoder.imports import named_labels, tokenizer_beside
from bertpress.encoder.sources import find
from bertpress.engines import available
from bertpress.errors import EngineError, RecipeError, UserError
from bertpress.measure.environment import int8_is_fast
from bertpress.methods.base import Need, Trait
from bertpress.outcome import ENGINES
from bertpress.recipe import Recipe, Stage
from bertpress.supervision import WHOLE_TEXTS, comparable, label_order
from bertpress.tasks import Task
from bertpress.training.distributed import launched


def hardware_note(recipe: Recipe) -> str | None:
    """What to expect of 8-bit integers on this processor, where that is little; None where they pay."""
    check = int8_is_fast()
    if check.fast or not any(Trait.INT8 in method.provides for _, _, method in recipe.methods()):
        return None
    return f"8-bit integers on this machine: {check.reason}"


def check_one_process(command: str) -> None:
    """Refuse to be one of several processes that a launcher has started, where those would do the same work.

    Raises:
        UserError: naming what spreads it instead.
    """
    if (count := launched()) > 1:
        raise UserError(f"{command}: WORLD_SIZE={count} must be 1; --ray spreads it over processes and machines")


def check_runtimes(recipe: Recipe) -> None:
    """Refuse to export for what is not installed."""
    for runtime in recipe.export:
        if (engine := ENGINES[runtime]) not in available():
            ways = f"pip install 'bertpress[{runtime}]', or --set export=[]"
            raise EngineError(f"{recipe.name}, export: {engine} is not installed; {ways}")


def check_needs(recipe: Recipe, data: Data) -> None:
    """Refuse methods that the task has nothing for."""
    task = data.task
    for stage, name, method in recipe.methods():
        place = f"{recipe.name} stage {stage.name}, {name}"
        if Need.LABELS in method.requires and task.kind == "masked-lm":
            raise RecipeError(f"{place}: needs labels, and the task {task.name} has none")
        if Need.PAIRS in method.requires and not task.reads_pairs:
            raise RecipeError(f"{place}: needs two texts that are read together, and the task {task.name} has one")
    for stage, cause in recipe.apart():
        _check_answers(recipe, stage, task, cause)


def check_learnt(recipe: Recipe, task: Task, *, trained: bool, given: bool) -> None:
    """Refuse to leave a model whose head has never learnt the task; that of an embedding has nothing to learn.

    Args:
        recipe: whose stages may teach it.
        task: of the run.
        trained: whether the model that is handed in has learnt it before.
        given: whether it has a teacher to learn from; without one it is fine-tuned before the first stage.

    Raises:
        RecipeError: naming the task and, where a method takes the labels' place, that method.
    """
    learnt = trained or not given
    for stage in recipe.stages:
        learnt = (trained if stage.start == "pretrained" else learnt) or stage.teaches
    if learnt or task.head().kind == "embedding":
        return
    hushed = [name for stage, name, method in recipe.methods() if method.supervises and not method.learns_task()]
    why = f"{hushed[0]} takes the place of the labels" if hushed else "none reads labels or a teacher's answers"
    raise RecipeError(
        f"{recipe.name}, stages: none teaches the model {task.name}, which it has not learnt before; {why}; add "
        "distill/logits, or a stage that trains on the labels"
    )


def check_readings(recipe: Recipe, task: Task, tokenizer: Any, given: str | Path | None) -> None:
    """Refuse what cannot be learnt of a teacher that cuts texts otherwise than the model, or names other labels.

    Args:
        recipe: may name teachers by their folders.
        task: of the run.
        tokenizer: of the model.
        given: the run's teacher; None: the model itself.

    Raises:
        ModelError: a teacher is not there.
        RecipeError: naming the teacher, and stage and method where it is they that cannot learn of it.
    """
    alike: dict[str, bool] = {}
    for stage in recipe.stages:
        teacher = given if stage.teacher == "original" else stage.teacher
        if teacher is None or teacher in ("previous", "pretrained"):
            continue
        name, ours = str(teacher), stage.teacher == "original"
        if stage.data == "task":
            place = f"--teacher {given}" if ours else f"stage {stage.name}, teacher {teacher}"
            label_order(named_labels(find(name).config), task, place)
        if name not in alike:
            reads = tokenizer_beside(name)
            alike[name] = reads is None or comparable(tokenizer, reads, task)
        if not alike[name]:
            cause = f"--teacher {given}" if ours else f"teacher={teacher}"
            recipe.check_apart(stage, cause)
            _check_answers(recipe, stage, task, cause)


def _check_answers(recipe: Recipe, stage: Stage, task: Task, cause: str) -> None:
    if task.head().kind in WHOLE_TEXTS or not any(method.follows_teacher() for _, method in stage.methods):
        return
    place = f"{recipe.name} stage {stage.name}, task {task.name}"
    raise RecipeError(f"{place}: a teacher's answers for each token are of other tokens, by {cause}")
