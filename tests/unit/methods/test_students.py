"""Word vectors are the best of their width, heads fit every task, first weights depend on the seed alone."""

import pytest
import torch
from student_teachers import BATCH, TASKS, context, teacher

from bertpress.errors import RecipeError
from bertpress.methods.student.bilstm import Bilstm
from bertpress.methods.student.cnn import Cnn
from bertpress.methods.student.hybrid import Hybrid
from bertpress.methods.students import narrowed_tables

STUDENTS = {
    "bilstm": Bilstm(units=12, dense=10),
    "cnn": Cnn(layers=2, hidden_size=24, dense=10),
    "hybrid": Hybrid(layers=("convolution", "attention", "lstm"), hidden_size=24, heads=2, ffn=32, dense=10),
}


def test_narrow_word_vectors_span_the_best_subspace():
    model = teacher()
    table = model.encoder.embeddings.word.weight.detach()
    vectors = narrowed_tables({"word": table}, 6)["word"]
    values = torch.linalg.svdvals(table.double())
    # the Gram matrix of the best vectors is that of the table but for what the dropped singular values hold
    error = torch.linalg.matrix_norm(table.double() @ table.double().t() - vectors.double() @ vectors.double().t())
    torch.testing.assert_close(error, values[6:].pow(4).sum().sqrt(), atol=1e-6, rtol=1e-4)


def test_other_tables_are_turned_into_the_same_axes():
    tables = {"word": torch.randn(20, 8), "position": torch.randn(5, 8), "segment": torch.randn(2, 4)}
    assert narrowed_tables(tables, 8) == {"word": tables["word"], "position": tables["position"]}
    narrow = narrowed_tables({"word": tables["word"], "position": tables["word"][:5].clone()}, 3)
    torch.testing.assert_close(narrow["position"], narrow["word"][:5], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", STUDENTS)
def test_every_kind_of_task_has_its_head(name, kind):
    model = teacher(kind)
    built = STUDENTS[name].attach(model, context(kind))
    with torch.no_grad():
        found, expected = built(**BATCH).logits, model(**BATCH).logits
    assert found.shape == ((2, 24) if kind == "embedding" else expected.shape)
    head = built.blueprint.head
    assert head.kind == model.blueprint.head.kind
    assert head.siamese == (kind == "pair" and name == "bilstm")
    assert built.blueprint.embeddings.segments == (2 if kind in ("pair", "span", "embedding") else 0) * (
        not head.siamese
    )
    assert built.blueprint.embeddings.positions == (40 if name == "hybrid" else 0)
    assert sum(weight.numel() for _, weight in built.unique_weights()) == built.blueprint.total_parameters
    assert type(built) is type(model)


@pytest.mark.parametrize("name", STUDENTS)
def test_word_vectors_start_as_the_teachers(name):
    model = teacher()
    built = STUDENTS[name].attach(model, context())
    assert torch.equal(built.encoder.embeddings.word.weight, model.encoder.embeddings.word.weight)
    if name == "hybrid":
        assert torch.equal(built.encoder.embeddings.position.weight, model.encoder.embeddings.position.weight)
    random = STUDENTS[name].model_copy(update={"start": "random"}).attach(model, context())
    assert (random.encoder.embeddings.word.weight - model.encoder.embeddings.word.weight).abs().max() > 0.01


@pytest.mark.parametrize("name", STUDENTS)
def test_first_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(0)
    first = STUDENTS[name].attach(teacher(), context())
    torch.manual_seed(99)
    again = STUDENTS[name].attach(teacher(), context())
    other = STUDENTS[name].attach(teacher(), context(seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_what_cannot_be_built_is_refused_in_a_line():
    with pytest.raises(RecipeError, match="student/cnn: embedding_size=33 must be at most the teacher's 32"):
        Cnn(embedding_size=33).attach(teacher(), context())
    with pytest.raises(RecipeError, match="student/bilstm: pairs=siamese needs a tokenizer that numbers the segments"):
        Bilstm().attach(teacher("pair"), context("pair", segments=False))
    joint = Bilstm(pairs="joint").attach(teacher("pair"), context("pair", segments=False))
    assert not joint.blueprint.head.siamese
