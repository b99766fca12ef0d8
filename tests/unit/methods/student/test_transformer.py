"""Students are the teacher's own weights, cut: bit-equal layers, requested shapes, all of it reproduces the teacher."""

import pytest
import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.depth import kept_layers
from bertpress.encoder.model import build_model
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.layer_maps import mapped
from bertpress.methods.student.transformer import Transformer, count_of, hidden_magnitude
from bertpress.tasks import resolve

TASK = resolve("sst2").replace(labels=("negative", "positive"))
BATCH = {
    "input_ids": torch.randint(5, 50, (6, 7), generator=torch.Generator().manual_seed(0)),
    "attention_mask": (torch.arange(7) < torch.tensor([[7], [5], [3], [7], [1], [6]])).long(),
    "labels": torch.tensor([0, 1, 1, 0, 1, 0]),
}
CTX = Context(task=TASK, tokenizer=None, seed=0, calibration=lambda *_: [BATCH])


def teacher():
    torch.manual_seed(3)
    return build_model(
        uniform(layers=4, hidden_size=32, heads=4, ffn=64, vocabulary=50, head=HeadSpec(kind="sequence"))
    )


@pytest.mark.parametrize(("which", "sources"), [("groups", (1, 3)), ("uniform", (0, 3)), ("top", (0, 1))])
def test_half_the_layers_are_bit_equal_to_the_teachers(which, sources):
    model = teacher()
    student = Transformer(layers=2, which=which).attach(model, CTX)
    for mine, source in zip(student.encoder.layers, sources, strict=True):
        theirs = dict(model.encoder.layers[source].named_parameters())
        assert all(torch.equal(weight, theirs[name]) for name, weight in mine.named_parameters())
    assert torch.equal(student.encoder.embeddings.word.weight, model.encoder.embeddings.word.weight)


@pytest.mark.parametrize("start", ["teacher", "random"])
def test_requested_shape(start):
    student = Transformer(layers=0.5, heads=2, ffn=0.5, hidden_size=0.5, multiple_of=16, start=start).attach(
        teacher(), CTX
    )
    shape = student.blueprint
    assert (len(shape.layers), shape.hidden_size, shape.layers[0].ffn) == (2, 16, (32,))
    assert len(shape.layers[1].attention.heads) == 2
    assert sum(w.numel() for _, w in student.unique_weights()) == shape.total_parameters


def test_a_student_starts_from_the_layers_that_it_will_learn():
    """The default start and the default map of layers name the same ones, wherever the depths divide."""
    for depth, keep in ((6, 3), (12, 6), (12, 4), (12, 3), (24, 6)):
        starts = kept_layers(Transformer().which, depth, depth - keep)
        assert [(mine, start + 1) for mine, start in enumerate(starts, start=1)] == mapped("uniform", keep, depth)


def test_all_of_the_teacher_reproduces_it():
    model = teacher()
    student = Transformer.noop().attach(model, CTX)
    inputs = {key: BATCH[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(student(**inputs).logits, model(**inputs).logits)


def test_dead_hidden_dimensions_go_first():
    model = teacher()
    for name, weight in model.unique_weights():
        if weight.dim() > 1 and weight.shape[-1] == 32 and "output" not in name:
            weight.data[:, ::4] *= 1e-3
        if weight.dim() > 1 and weight.shape[0] == 32 and ("output" in name or "outer" in name or "dense" in name):
            weight.data[::4] *= 1e-3
    weakest = torch.argsort(hidden_magnitude(model))[:8].sort().values
    assert weakest.tolist() == list(range(0, 32, 4))


def test_random_students_depend_on_the_seed_alone():
    torch.manual_seed(0)
    first = Transformer(layers=1, start="random").attach(teacher(), CTX)
    torch.manual_seed(99)
    again = Transformer(layers=1, start="random").attach(teacher(), CTX)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_counts():
    found = [count_of(size, 12, "layers") for size in (3, 0.5, None, 1, 1.0)]
    assert found == [3, 6, 12, 1, 12]
    assert count_of(0.3, 1536, "ffn", multiple=64) == 448
    with pytest.raises(RecipeError, match="student/transformer: layers=9 must be at most the teacher's 4"):
        Transformer(layers=9).attach(teacher(), CTX)
