"""What all terms that compare layers owe: zero where both agree, no pads, no gradient for the teacher, any task."""

from copy import deepcopy

import pytest
import torch
from matched_models import padded, terms_of, tiny, value_of
from sample_run import make_data, make_model

from bertpress.methods.base import Context
from bertpress.methods.distill.attention import Attention
from bertpress.methods.distill.embeddings import Embeddings
from bertpress.methods.distill.features import Features
from bertpress.methods.distill.hidden import Hidden
from bertpress.methods.distill.pkd import Pkd
from bertpress.training import TaskLoss, Teacher, TrainSettings, train
from bertpress.training.optimizer import make_optimizer
from bertpress.training.teacher import weights_digest

HEADWISE = ("scores", "maps", "contexts", "queries", "keys", "values")
METHODS = [
    Embeddings(),
    Hidden(),
    Hidden(loss="cosine", layer_map="final"),
    Pkd(),
    Pkd(layer_map="last", reduction="mean"),
    *(Attention(targets=(target,)) for target in HEADWISE),
    Features(),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: repr(method)[:60])


@every_method
def test_zero_where_student_equals_teacher_and_positive_elsewhere(method):
    teacher = tiny(1)
    terms, _ = terms_of(method, tiny(1), teacher)
    assert terms
    assert value_of(terms, tiny(1), teacher, padded(2)).item() == pytest.approx(0, abs=1e-6)
    for term in terms:
        assert value_of([term], tiny(0), teacher, padded(2)).item() > 1e-6


@every_method
def test_pads_never_count(method):
    student, teacher = tiny(0), tiny(1)
    terms, _ = terms_of(method, student, teacher)
    expected = value_of(terms, student, teacher, padded())
    for batch in (padded(4), padded(4, pad=30)):
        torch.testing.assert_close(value_of(terms, student, teacher, batch), expected)


@every_method
def test_the_student_alone_gets_a_gradient(method):
    student, teacher = tiny(0), tiny(1)
    value_of(terms_of(method, student, teacher)[0], student, teacher, padded(3)).backward()
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    assert all(weight.grad is None for weight in teacher.parameters())


@every_method
def test_a_weight_of_zero_leaves_no_term(method):
    without = method.model_copy(update={"weight": 0.0})
    assert terms_of(without, tiny(0), tiny(1))[0] == []
    twice = method.model_copy(update={"weight": 2 * method.weight})
    student, teacher = tiny(0), tiny(1)
    one, two = (value_of(terms_of(m, student, teacher)[0], student, teacher, padded()) for m in (method, twice))
    torch.testing.assert_close(two, 2 * one)


@every_method
def test_fifty_steps_lower_the_term_and_leave_the_teacher_alone(method):
    student, teacher = tiny(0), tiny(1).train()
    before = weights_digest(teacher)
    terms, state = terms_of(method, student, teacher)
    optimizer = make_optimizer([student, state], TrainSettings(learning_rate=3e-3))
    values = []
    for _ in range(50):
        loss = value_of(terms, student, teacher, padded(1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    assert values[-1] < 0.6 * values[0]
    assert weights_digest(teacher) == before
    assert not teacher.training


KINDS = ["text-classification", "text-regression", "sentence-similarity", "token-classification", "question-answering"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cached", ["logits", "all"])
def test_every_kind_of_task_learns_through_all_of_them(kind, cached, tmp_path):
    task, data, _, tokenizer = make_data(kind, count=24)
    model, teacher = make_model(task, tokenizer, dropout=0.0), make_model(task, tokenizer, seed=5)
    ctx = Context(task=task, tokenizer=tokenizer, seed=0, teacher=teacher)
    methods = [Embeddings(), Hidden(), Pkd(), Attention(targets=HEADWISE), Features(modules=("ffn_inner", "ffn_outer"))]
    for method in methods:
        method.attach(model, ctx)
    terms = [term for method in methods for term in method.objectives(ctx)]
    assert len(terms) == 11
    settings = TrainSettings(epochs=4, batch_size=8, learning_rate=1e-2, cache_teacher=cached, precision="float32")
    before = deepcopy(teacher.state_dict())
    result = train(
        model, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=tmp_path / "run", state=ctx.state,
        objectives=[TaskLoss(), *terms], teacher=Teacher(teacher, cache=tmp_path / "cache"), progress="none",
    )  # fmt: skip
    first, last = result.log[0]["terms"], result.log[-1]["terms"]
    assert sum(last[term.name] for term in terms) < sum(first[term.name] for term in terms)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
