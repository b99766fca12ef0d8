"""Which of the teacher's layers each layer of a student learns from: pure functions of the two depths.

Layers are counted from 1, as the papers do; 0 is the output of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model

LayerMap = Literal["uniform", "final", "middle", "skip", "last", "joint"] | tuple[int, ...]
MAP = (
    "Which layers meet: uniform, final (the last ones alone), middle (the student's last, the teacher's middle), "
    "skip or last (PKD's), joint (where two texts see each other, each with the same layer of the teacher), or the "
    "teacher's layers for the student's layers 1, 2, ..."
)


def uniform(student: int, teacher: int) -> list[int]:
    """g(0), ..., g(student) with g(m) = m * teacher / student, halves up (Jiao et al. 2020, arXiv:1909.10351)."""
    return [(2 * m * teacher + student) // (2 * student) for m in range(student + 1)]


def skip(student: int, teacher: int) -> list[int]:
    """For layers 1, 2, ... but the last: evenly spaced ones (Sun et al. 2019, arXiv:1908.09355, section 3.2)."""
    return uniform(student, teacher)[1:-1]


def last(student: int, teacher: int) -> list[int]:
    """For layers 1, 2, ... but the last: those right below the teacher's last one (the same section)."""
    return list(range(teacher - student + 1, teacher))


def mapped(layer_map: LayerMap, student: int, teacher: int, separate: int = 0) -> list[tuple[int, int]]:
    """Pairs of a student's layer and the teacher's layer that it learns from.

    Args:
        layer_map: a name, or the teacher's layers for the student's layers 1, 2, ...; may end before the last one.
        student: number of its layers.
        teacher: number of its layers.
        separate: the student's layers from below that keep two texts apart.

    Raises:
        ValueError: a layer is not there, or the student is the deeper one where layers are spread by name.
    """
    if layer_map == "joint":
        if student != teacher:
            raise ValueError(f"layer_map=joint needs a student of {teacher} layers, as its teacher has, not {student}")
        return [(layer, layer) for layer in range(separate + 1, student + 1)]
    if layer_map == "final":
        return [(student, teacher)]
    if layer_map == "middle":
        return [(student, (teacher + 1) // 2)]
    if isinstance(layer_map, tuple):
        chosen = list(layer_map)
        if not 1 <= len(chosen) <= student:
            raise ValueError(f"layer_map={chosen} must name 1 to {student} layers, as the student has {student}")
        if not all(1 <= layer <= teacher for layer in chosen):
            raise ValueError(f"layer_map={chosen} must name layers in [1, {teacher}], those of the teacher")
    else:
        if student > teacher:
            raise ValueError(f"layer_map={layer_map} needs a student of at most {teacher} layers, not {student}")
        chosen = {"uniform": lambda s, t: uniform(s, t)[1:], "skip": skip, "last": last}[layer_map](student, teacher)
    return list(enumerate(chosen, start=1))


def layer_pairs(method: str, layer_map: LayerMap, model: Model, ctx: Context) -> list[tuple[int, int]]:
    """:func:`mapped` for a model and its teacher.

    Raises:
        RecipeError: as there, naming the method.
    """
    assert ctx.teacher is not None
    own, theirs = (len(each.blueprint.layers) for each in (model, ctx.teacher))
    try:
        return mapped(layer_map, own, theirs, model.blueprint.separate)
    except ValueError as fault:
        raise RecipeError(f"{method}: {fault}") from None


def attention_places(
    method: str, pairs: Sequence[tuple[int, int]], model: Model, teacher: Model
) -> list[tuple[int, int]]:
    """Where the heads of layers that meet lie on the two tapes; layers without heads leave nothing there.

    Raises:
        RecipeError: a layer has other heads than the one that it meets; names the method.
    """
    heads = [[len(layer.attention.heads) for layer in each.blueprint.layers] for each in (model, teacher)]
    for mine, theirs in pairs:
        if not heads[0][mine - 1] == heads[1][theirs - 1] > 0:
            raise RecipeError(
                f"{method}: layer {mine} of the student has {heads[0][mine - 1]} heads, layer {theirs} of the "
                f"teacher {heads[1][theirs - 1]}; give both as many, or choose other layers by layer_map"
            )
    tape = [[i for i, count in enumerate(counts, start=1) if count] for counts in heads]
    return [(tape[0].index(mine), tape[1].index(theirs)) for mine, theirs in pairs]


def check_tokens(name: str, *models: Model) -> None:
    """Refuse models whose layers have no state for each token.

    Raises:
        RecipeError: naming the method.
    """
    if not all(model.blueprint.by_token for model in models):
        raise RecipeError(f"{name}: needs layers that work on the tokens as they come, not shortened or apart")
