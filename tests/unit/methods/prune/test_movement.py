"""The gradient of a score, exact shares, schedules at their turning points, and no trace of scores."""

import pytest
import torch
from short_training import SETTINGS, TASK, batch, context, tiny, train

from bertpress.methods.masks import largest
from bertpress.methods.prune.movement import HighScores, Movement, TopScores, activity, relative_magnitude
from bertpress.methods.transform import bake
from bertpress.training.optimizer import make_groups

NAME = "encoder.layers.0.attention.query.weight"


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(*shape):
    return torch.ones(*shape, dtype=torch.bool)


@pytest.mark.parametrize(
    "made", [lambda w: TopScores(0 * w, w != 0, 1e-2, 0.4), lambda w: HighScores(0 * w, w != 0, 1e-2, 0.1)]
)
def test_the_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight(made):
    weight, wanted = drawn(6, 5).requires_grad_(), drawn(6, 5, seed=1)
    transform = made(weight.detach())
    transform.scores.data.copy_(drawn(6, 5, seed=2))
    transform.level.fill_(0.4)
    masked = transform(weight)
    (masked * wanted).sum().backward()
    kept = masked.detach() != 0
    assert 0 < int(kept.sum()) < 30
    assert torch.equal(transform.scores.grad, wanted * weight.detach())
    assert torch.equal(weight.grad, wanted * kept)
    assert torch.equal(masked.detach(), weight.detach() * kept)


def test_scores_gather_the_movement_of_the_weights():
    """With plain SGD: S = -rate * sum of (dL/dW' * W)."""
    weight = drawn(4, 4)
    transform, expected = TopScores(torch.zeros(4, 4), weight != 0, 1e-2, 1.0), torch.zeros(4, 4)
    optimizer = torch.optim.SGD([transform.scores], lr=0.1)
    for seed in range(5):
        gradient, current = drawn(4, 4, seed=seed), weight + drawn(4, 4, seed=seed + 9)
        (transform(current) * gradient).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        expected -= 0.1 * gradient * current
    torch.testing.assert_close(transform.scores.detach(), expected)


def test_a_share_of_the_largest_scores_exactly_even_where_all_are_equal():
    transform = TopScores(torch.zeros(10, 7), whole(10, 7), 1e-2, 0.3)
    assert int(transform.kept().sum()) == 21
    transform.scores.data.copy_(drawn(10, 7, seed=3))
    scores = transform.scores.detach()
    assert float(scores[transform.kept()].min()) > float(scores[~transform.kept()].max())


def test_scores_may_start_where_magnitude_pruning_would_choose():
    weight = torch.tensor([[-3.0, 1.0], [0.5, -1.5]])
    torch.testing.assert_close(relative_magnitude(weight), torch.tensor([[2.0, 2 / 3], [1 / 3, 1.0]]))
    assert not relative_magnitude(torch.zeros(2, 2)).any()
    model = Movement(start="magnitude").attach(tiny(), context())
    transform = next(iter(model.encoder.layers[0].attention.query.parametrizations.weight))
    transform.level.fill_(0.25)
    weight = model.get_parameter(NAME).detach()
    assert torch.equal(transform.kept(), largest(weight.abs(), round(0.25 * weight.numel())))


def test_sigmoids_above_the_threshold_and_never_less_than_the_floor():
    transform = HighScores(torch.zeros(20, 10), whole(20, 10), 1e-2, 0.005)
    transform.scores.data.copy_(drawn(20, 10, seed=3))
    transform.level.fill_(0.6)
    assert torch.equal(transform.kept(), transform.scores.detach() > torch.log(torch.tensor(1.5)))
    transform.scores.data.sub_(100)
    assert int(transform.kept().sum()) == 1  # 0.5 % of 200
    assert bool(transform.kept().flatten()[transform.scores.argmax()])


def test_the_penalty_is_the_mean_over_matrices_and_grows_with_the_threshold():
    small, large = (HighScores(torch.zeros(n, n), whole(n, n), 1e-2, 0.0) for n in (2, 8))
    small.scores.data.fill_(1.0)
    assert activity([small, large], 0.1).item() == 0
    for transform in (small, large):
        transform.level.fill_(0.05)
    sigmoid = float(torch.tensor(1.0).sigmoid())
    found = activity([small, large], 0.1)
    assert found.item() == pytest.approx((sigmoid + 0.5) / 2 * 0.5)  # not weighted by size; half of the threshold
    found.backward()
    torch.testing.assert_close(small.scores.grad, torch.full((2, 2), sigmoid * (1 - sigmoid) / 4 / 2 * 0.5))


def test_the_schedule_at_its_turning_points():
    hard = Movement(keep=0.1, begin=0.1, end=0.8)
    assert [hard.level(step, 100) for step in (0, 10, 45, 80, 99, 100)] == pytest.approx(
        [1.0, 1.0, 0.1 + 0.9 / 8, 0.1, 0.1, 0.1]
    )
    soft = Movement(variant="soft", threshold=0.1, begin=0.1, end=0.8)
    assert [soft.level(step, 100) for step in (0, 10, 45, 80, 99)] == pytest.approx([0, 0, 0.1 - 0.1 / 8, 0.1, 0.1])


def test_scores_learn_at_their_own_rate_and_do_not_decay_and_embeddings_are_frozen():
    model, ctx = tiny(), context()
    method = Movement(score_learning_rate=0.03)
    method.attach(model, ctx)
    groups = make_groups([model, ctx.state], SETTINGS)
    scores = [weight for weight in model.parameters() if any(weight is t.scores for t in ctx.state["movement"])]
    assert len(scores) == len(method.weights(model)) == 7
    for group in groups:
        found = [any(weight is score for score in scores) for weight in group["params"]]
        assert all(found) or not any(found)
        if all(found):
            assert (group["lr"], group["weight_decay"], len(found)) == (0.03, 0.0, 7)
    frozen = {id(weight) for weight in model.encoder.embeddings.parameters()}
    assert not frozen & {id(weight) for group in groups for weight in group["params"]}


def test_keeping_all_is_plain_fine_tuning():
    plain, masked = tiny(), tiny()
    Movement(keep=1.0).attach(masked, context())
    inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(plain(**inputs).logits, masked(**inputs).logits)
    plain(**inputs).logits.square().sum().backward()
    masked(**inputs).logits.square().sum().backward()
    assert torch.equal(plain.get_parameter(NAME).grad, masked.get_parameter(NAME).grad)


def test_trained_it_keeps_the_share_and_answers_as_under_the_masks():
    method, answers = Movement(keep=0.3), []
    inputs = {name: batch(77)[name] for name in ("input_ids", "attention_mask")}
    start = {name: weight.detach().clone() for name, weight in tiny().unique_weights()}
    model, ctx = method.attach(tiny(), context()), context()
    made = train(tiny(), method, ctx, 20)
    for name in method.weights(made):
        weight = made.get_parameter(name)
        assert int((weight != 0).sum()) == round(0.3 * weight.numel())
        assert not torch.equal(weight[weight != 0], start[name][weight != 0])
    word = "encoder.embeddings.word.weight"
    assert torch.equal(made.get_parameter(word), start[word])
    assert all(weight.requires_grad for weight in made.parameters())
    assert not any("scores" in name or "parametrizations" in name for name in made.state_dict())
    assert made.state_dict().keys() == tiny().state_dict().keys()
    for module in model.modules():
        if isinstance(module, TopScores):
            module.scores.data.copy_(drawn(*module.scores.shape))
            module.level.fill_(0.3)
    answers.append(model(**inputs).logits)
    bake(model)
    assert torch.equal(model(**inputs).logits, answers[0])
    assert int((model.get_parameter(NAME) != 0).sum()) == round(0.3 * 256)


def test_it_finds_the_weights_that_grow():
    """Weights that the loss drives up get high scores, those that it drives down low ones, whatever their size."""
    weight = drawn(50, 2).abs() + 0.1
    up = torch.arange(100).reshape(50, 2) % 3 == 0
    transform = TopScores(torch.zeros(50, 2), whole(50, 2), 1e-2, 1.0)
    optimizer = torch.optim.AdamW([transform.scores], lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        (transform(weight) * torch.where(up, -1.0, 1.0)).sum().backward()
        optimizer.step()
    transform.level.fill_(float(up.float().mean()))
    assert torch.equal(transform.kept(), up)


def test_more_penalty_leaves_fewer_weights():
    left = []
    for penalty in (0.0, 10.0, 10_000.0):
        method = Movement(variant="soft", penalty=penalty, threshold=0.45, floor=0.005)
        made = train(tiny(), method, context(), 40)
        left.append(sum(int((made.get_parameter(name) != 0).sum()) for name in method.weights(made)))
    assert left[0] > left[2]
    assert left[0] >= left[1] >= left[2]
    assert left[2] >= sum(round(0.005 * made.get_parameter(name).numel()) for name in method.weights(made))
    assert TASK.labels == ("negative", "positive")


@pytest.mark.parametrize("variant", ["hard", "soft"])
def test_what_was_pruned_before_takes_no_part_in_the_choice(variant):
    weight = drawn(8, 10)
    weight[:, :5] = 0
    scores = drawn(8, 10, seed=1)
    made = (
        TopScores(scores, weight != 0, 1e-2, 0.4) if variant == "hard" else HighScores(scores, weight != 0, 1e-2, 0.4)
    )
    if variant == "soft":
        made.level.fill_(0.999)  # nothing is above it, so that the floor decides
    kept = made.kept()
    assert int(kept.sum()) == 32
    assert not kept[:, :5].any()
    assert float(scores[kept].min()) > float(scores[:, 5:][~kept[:, 5:]].max())


@pytest.mark.parametrize("fields", [{"keep": 0.5}, {"variant": "soft", "penalty": 0.0, "threshold": 0.48}])
def test_scores_of_tables_move_where_the_tables_are_frozen(fields):
    method = Movement(tables=["word", "position"], score_learning_rate=0.1, **fields)
    before = {name: weight.detach().clone() for name, weight in tiny().named_parameters() if "embeddings" in name}
    model = train(tiny(), method, context(), 8)
    for table in ("word", "position"):
        kept = model.get_parameter(f"encoder.embeddings.{table}.weight").detach() != 0
        assert 0 < int(kept.sum()) < kept.numel()
        first, second = kept[: len(kept) // 2].float().mean(), kept[len(kept) // 2 :].float().mean()
        assert second > 0.1 or first < 0.9, "ties kept the first rows"
        name = f"encoder.embeddings.{table}.weight"
        assert torch.equal(model.get_parameter(name)[kept], before[name][kept]), "a frozen table moved"
