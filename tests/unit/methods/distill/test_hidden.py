"""Which layers meet, through which maps; the sum over layers by hand; mistakes in one line."""

import pytest
import torch
from matched_models import context, padded, step_of, terms_of, tiny, value_of

from bertpress.encoder.surgery import keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.distances import hidden_state_cosine, hidden_state_mse
from bertpress.methods.distill.hidden import Hidden
from bertpress.methods.matching import Pairs


@pytest.mark.parametrize(
    ("layer_map", "pairs"),
    [
        ("uniform", [(1, 2), (2, 4)]),
        ("final", [(2, 4)]),
        ("skip", [(1, 2)]),
        ("last", [(1, 3)]),
        ((1, 1), [(1, 1), (2, 1)]),
        ((3,), [(1, 3)]),
    ],
)
@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_the_sum_over_the_layers_that_meet(layer_map, pairs, loss):
    student, teacher, batch = tiny(0), tiny(1, layers=4), padded(1)
    (term,), _ = terms_of(Hidden(layer_map=layer_map, loss=loss), student, teacher)
    assert term.teacher_places == {theirs for _, theirs in pairs}
    step = step_of([term], student, teacher, batch)
    real = batch["attention_mask"].bool()
    expected = 0
    for mine, theirs in pairs:
        a, b = step.student.captured["hidden_states"][mine][real], step.teacher.captured["hidden_states"][theirs][real]
        cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
        expected = expected + ((a - b).square().mean() if loss == "mse" else (1 - cosine).mean())
    torch.testing.assert_close(term(step), expected)


def test_a_student_of_the_teachers_own_layers_has_nothing_to_learn_from_them():
    teacher = tiny(1, layers=4)
    student = keep_layers(teacher, [0, 1])
    (term,), _ = terms_of(Hidden(layer_map=(1, 2)), student, teacher)
    assert value_of([term], student, teacher, padded(2)).item() == 0


def test_one_map_for_all_layers_or_one_for_each():
    student, teacher = tiny(0, hidden_size=8), tiny(1, layers=4)
    for shared, count in ((True, 1), (False, 2)):
        (term,), state = terms_of(Hidden(shared=shared), student, teacher)
        weights = list(state.parameters())
        assert [tuple(weight.shape) for weight in weights] == [(16, 8)] * count
        for weight in weights:  # orthogonal: lengths stay
            torch.testing.assert_close(weight.T @ weight, torch.eye(8))
        step = step_of([term], student, teacher, padded())
        own, target = (side.captured["hidden_states"] for side in (step.student, step.teacher))
        maps = weights * (3 - count)
        mask = padded()["attention_mask"]
        expected = sum(
            hidden_state_mse(student=own[i + 1] @ maps[i].T, teacher=target[2 * i + 2], mask=mask) for i in range(2)
        )
        torch.testing.assert_close(term(step), expected)
        term(step_of([term], student, teacher, padded())).backward()
        assert all(weight.grad.any() for weight in weights)
    assert not torch.equal(*weights)


def test_the_teacher_side_projects_down():
    student, teacher = tiny(0, hidden_size=8), tiny(1)
    (term,), state = terms_of(Hidden(project="teacher", loss="cosine"), student, teacher)
    (weight,) = state.parameters()
    assert weight.shape == (8, 16)
    step = step_of([term], student, teacher, padded())
    own, target = (side.captured["hidden_states"] for side in (step.student, step.teacher))
    mask = padded()["attention_mask"]
    expected = sum(hidden_state_cosine(student=own[i], teacher=target[i] @ weight.T, mask=mask) for i in (1, 2))
    torch.testing.assert_close(term(step), expected)


def test_maps_are_drawn_by_the_seed_and_stay_out_of_the_model():
    student, teacher = tiny(0, hidden_size=8), tiny(1)
    before = set(student.state_dict())
    drawn = []
    for seed in (0, 0, 1):
        ctx = context(teacher, seed)
        torch.manual_seed(len(drawn))
        Hidden().attach(student, ctx)
        drawn.append(ctx.state["hidden"].projections[0].weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert set(student.state_dict()) == before


def test_by_hand_with_an_identity_and_a_doubling_map():
    double = torch.nn.Linear(2, 2, bias=False)
    double.weight.data = 2 * torch.eye(2)
    own = [torch.zeros(1, 2, 2), torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])]
    target = [torch.zeros(1, 2, 2), torch.tensor([[[2.0, 4.0], [0.0, 3.0]]])]
    mask = torch.ones(1, 2)
    ((a, b),) = Pairs([(1, 1)], [double])(own, target)
    assert hidden_state_mse(student=a, teacher=b, mask=mask).item() == pytest.approx((0 + 0 + 0 + 1) / 4)
    ((a, b),) = Pairs([(1, 1)])(own, target)
    assert hidden_state_mse(student=a, teacher=b, mask=mask).item() == pytest.approx((1 + 4 + 0 + 4) / 4)
    ((a, b),) = Pairs([(1, 1)], [double], "teacher")(own, target)
    assert hidden_state_mse(student=a, teacher=b, mask=mask).item() == pytest.approx((9 + 36 + 0 + 25) / 4)


def test_layers_that_are_not_there_are_refused_in_one_line():
    with pytest.raises(
        RecipeError, match=r"^distill/hidden: layer_map=uniform needs a student of at most 2 layers, not 4$"
    ):
        Hidden().attach(tiny(0, layers=4), context(tiny(1)))
    with pytest.raises(RecipeError, match=r"^distill/hidden: layer_map=\[1, 3\] must name layers in \[1, 2\]"):
        Hidden(layer_map=(1, 3)).attach(tiny(0), context(tiny(1)))


def test_a_student_that_is_cut_after_the_maps_were_made_is_told_so():
    teacher = tiny(1)
    terms, _ = terms_of(Hidden(), tiny(0), teacher)
    with pytest.raises(
        RecipeError, match=r"^hidden: student and teacher must have the same shapes, not 2 of \(2, 5, 16\)"
    ):
        value_of(terms, keep_layers(tiny(0), [0]), teacher, padded())
    with pytest.raises(RecipeError, match=r"not 3 of \(2, 5, 8\) and 3 of \(2, 5, 16\)"):
        value_of(terms, tiny(0, hidden_size=8), teacher, padded())
