"""The loss by hand, matched against shuffled pairs, negatives of other classes, banks that only seen texts move."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from teaching import before_and_after, context, loss_of, padded, run_on, step_of, tiny

from bertpress.errors import RecipeError
from bertpress.methods.distill.codir import (
    STATE,
    CoDIR,
    classes_of,
    draw_others,
    every,
    moved,
    nce,
    sentence_vectors,
)  # fmt: skip
from bertpress.tasks import resolve

LABELS = torch.tensor([0, 1, 0, 1, 1, 2])


def attached(student, teacher, labels=(0, 1, 0, 1), **fields):
    method, ctx = CoDIR(**{"size": 8, "negatives": 3, **fields}), context(teacher)
    task = SimpleNamespace(is_classification=True)
    ctx.train = SimpleNamespace(task=task, labels=list(labels), row_of=range(len(labels)))
    return method, method.attach(student, ctx), ctx


def test_the_loss_by_hand():
    # N cancels: P = score / (N mean), so P / (P + K/N) is score / (score + K mean)
    texts, mean = 50, 2.0
    positive, negatives = torch.tensor([4.0]), torch.tensor([[1.0, 3.0]])
    own, others, noise = 4.0 / (texts * mean), [1.0 / (texts * mean), 3.0 / (texts * mean)], 2 / texts
    expected = -math.log(own / (own + noise)) - sum(math.log(noise / (other + noise)) for other in others)
    assert nce(positive, negatives, torch.tensor(mean)).item() == pytest.approx(expected, rel=1e-6)
    two = nce(positive.repeat(2), negatives.repeat(2, 1), torch.tensor(mean))
    assert two.item() == pytest.approx(expected, rel=1e-6)


def test_matched_pairs_cost_less_than_shuffled_ones():
    random = torch.Generator().manual_seed(0)
    student = F.normalize(torch.randn(32, 16, generator=random), dim=-1)
    teacher = F.normalize(student + 0.1 * torch.randn(32, 16, generator=random), dim=-1)
    scores = (student @ teacher.T / 0.07).exp()

    def loss(partner):
        others = torch.tensor([[j for j in range(32) if j not in (i, partner[i])][:20] for i in range(32)])
        return nce(scores[range(32), partner], scores.gather(1, others), scores.mean())

    assert loss([*range(32)]) < 0.5 * loss([*range(1, 32), 0])


def test_texts_are_the_mean_of_their_tokens_or_the_first_one():
    layers = [torch.tensor([[[1.0], [3.0], [50.0]]]), torch.tensor([[[5.0], [7.0], [50.0]]])]
    mask = torch.tensor([[1, 1, 0]])
    assert sentence_vectors(layers, mask, "mean").tolist() == [[2.0, 6.0]]
    assert sentence_vectors(layers, mask, "cls").tolist() == [[1.0, 5.0]]


def test_every_second_layer_ends_with_the_last():
    assert every(list(range(1, 13)), 2) == [2, 4, 6, 8, 10, 12]
    assert every(list(range(1, 6)), 2) == [1, 3, 5]
    assert every([1, 2, 3], 1) == [1, 2, 3]
    assert every([1, 2], 5) == [2]


def test_negatives_never_share_the_class_and_all_others_are_drawn():
    torch.manual_seed(0)
    order = LABELS.argsort(stable=True)
    drawn = draw_others(LABELS, order, LABELS[order], 2000)
    assert drawn.shape == (6, 2000)
    for i, label in enumerate(LABELS):
        others = set((label != LABELS).nonzero().flatten().tolist())
        counts = torch.bincount(drawn[i], minlength=6)
        assert set(counts.nonzero().flatten().tolist()) == others
        assert counts[sorted(others)].float().std() < 0.15 * 2000 / len(others)


def test_a_row_is_a_moving_average_of_unit_length():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    found = moved(rows, torch.tensor([[0.0, 1.0], [0.6, 0.8]]), torch.tensor([True, False]), 0.5)
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]]))
    steady = moved(rows[:1], torch.tensor([[0.0, 1.0]]), torch.tensor([True]), 0.9)
    torch.testing.assert_close(steady, F.normalize(torch.tensor([[0.9, 0.1]]), dim=-1))


def test_the_term_is_the_mean_of_both_directions():
    torch.manual_seed(3)
    method, student, ctx = attached(tiny(0), tiny(1))
    batch, banks = padded(2), ctx.state[STATE]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    own, target = (side(**inputs, output_hidden_states=True).hidden_states for side in (student, ctx.teacher))
    mask = batch["attention_mask"]
    f = F.normalize(banks.of_student(sentence_vectors(own[1:], mask, "mean")), dim=-1)
    g = F.normalize(banks.of_teacher(sentence_vectors(target[2:], mask, "mean")), dim=-1)
    value = loss_of(method, student, ctx, batch)[1]["codir"]
    # two texts, two classes: the one negative of each, three times, is the other
    scores = (f @ g.T / 0.07).exp()
    losses = []
    for rows in (scores, scores.T):
        normalizer = (rows.diag().sum() + 3 * (rows.sum() - rows.diag().sum())) / 8
        losses.append(nce(rows.diag(), rows.flip(1).diag()[:, None].expand(2, 3), normalizer))
    torch.testing.assert_close(value, (losses[0] + losses[1]) / 2)
    torch.testing.assert_close(banks.student[:2], f)
    torch.testing.assert_close(banks.teacher[:2], g)
    assert value > 0


def test_only_the_rows_of_seen_texts_move_and_the_normalizer_stays():
    method, student, ctx = attached(tiny(0), tiny(1))
    terms, banks = method.objectives(ctx), ctx.state[STATE]
    terms[0](step_of(terms, student, ctx, padded()))
    assert banks.seen.tolist() == [True, True, False, False]
    before, frozen = banks.student.clone(), banks.normalizers.clone()
    assert not before[2:].any()
    torch.testing.assert_close(before[:2].norm(dim=-1), torch.ones(2))
    terms[0](step_of(terms, tiny(5), ctx, padded() | {"index": torch.tensor([2, 1])}))
    assert banks.student[0].equal(before[0])
    assert not banks.student[1].equal(before[1])
    assert banks.student[2].any()
    assert not banks.student[3].any()
    torch.testing.assert_close(banks.student[:3].norm(dim=-1), torch.ones(3))
    assert banks.normalizers.equal(frozen)
    assert (frozen > 0).all()


def test_before_two_classes_were_seen_the_term_is_zero():
    method, student, ctx = attached(tiny(0), tiny(1), labels=(0, 0, 1, 1))
    value = loss_of(method, student, ctx, padded())[0]
    assert value.item() == 0
    value.backward()
    assert not ctx.state[STATE].normalizers.any()


def test_gradients_reach_student_and_maps_and_nothing_else():
    method, student, ctx = attached(tiny(0), tiny(1))
    loss_of(method, student, ctx, padded(2))[0].backward()
    assert student.encoder.layers[0].attention.value.weight.grad.abs().sum() > 0
    banks = ctx.state[STATE]
    assert banks.of_student.weight.grad.abs().sum() > 0
    assert banks.of_teacher.weight.grad.abs().sum() > 0
    assert not banks.student.requires_grad
    assert all(weight.grad is None for weight in ctx.teacher.parameters())


def test_pads_never_count():
    values = []
    for batch in (padded(), padded(3), padded(3, fill=30)):
        method, student, ctx = attached(tiny(0), tiny(1))
        values.append(loss_of(method, student, ctx, batch)[0])
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


def test_tasks_without_one_class_a_text_are_refused():
    method, model = CoDIR(), tiny(0)
    scores = resolve("text-regression", text_columns=("text",), label_column="score")
    many = resolve("text-classification", text_columns=("text",), label_column="label").replace(
        multi_label=True, metric="f1_micro"
    )
    for task, words in (
        (scores, "not text-regression"),
        (resolve("squad"), "not question-answering"),
        (many, "not several labels a text"),
    ):
        ctx = context(tiny(1))
        ctx.task = task
        with pytest.raises(RecipeError, match=f"distill/codir: the task .* must have one class for each text, {words}"):
            method.attach(model, ctx)
    _, _, ctx = attached(tiny(0), tiny(1), labels=(1, 1, 1))
    with pytest.raises(RecipeError, match="distill/codir: the training texts must be of two classes at least"):
        classes_of(ctx.train)


def test_texts_without_classes_are_each_their_own():
    class Texts:
        task = resolve("masked-lm", text_columns=("text",))

        def __len__(self):
            return 4

    assert classes_of(Texts()).tolist() == [0, 1, 2, 3]


def test_a_text_without_a_label_has_a_class_of_its_own():
    _, _, ctx = attached(tiny(0), tiny(1), labels=(1, None, 0, None, 1))
    first, alone, second, other, again = classes_of(ctx.train).tolist()
    assert first == again
    assert len({first, alone, second, other}) == 4


def test_the_cache_is_asked_for_the_layers_that_are_read():
    method, _, ctx = attached(tiny(0), tiny(1, layers=5), labels=(0, 1))
    assert [term.teacher_places for term in method.objectives(ctx)] == [{1, 3, 5}]


def test_fifty_steps_lower_the_term_and_leave_the_teacher():
    method, student, ctx = attached(tiny(0), tiny(1))
    kept = {name: value.clone() for name, value in ctx.teacher.state_dict().items()}
    first, last = before_and_after(method, student, ctx, [padded(), padded(2)])
    assert last < 0.8 * first
    assert all(value.equal(kept[name]) for name, value in ctx.teacher.state_dict().items())


@pytest.mark.parametrize("kind", ["text-classification", "masked-lm"])
def test_every_kind_of_task_with_classes_or_none(kind, tmp_path):
    log, ctx = run_on(kind, CoDIR(negatives=20), tmp_path)
    assert set(log[-1]["terms"]) == {"task", "codir"}
    assert log[-1]["terms"]["codir"] > 0
    assert ctx.state[STATE].seen.all()
