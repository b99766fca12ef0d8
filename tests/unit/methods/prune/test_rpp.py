"""The soft threshold, plain AdamW without gamma, exact zeros, more of them with more gamma."""

import pytest
import torch
from short_training import SETTINGS, context, tiny, train

from bertpress.methods.prune.rpp import Proximal, Reweighting, Rpp, importance, soft_threshold, sufficient


def test_the_proximal_step_by_hand():
    weight = torch.tensor([0.5, -0.5, 0.1, -0.1, 0.0, 0.3])
    threshold = torch.tensor([0.2, 0.2, 0.2, 0.1, 5.0, 0.0])
    assert soft_threshold(weight, threshold).tolist() == pytest.approx([0.3, -0.3, 0.0, 0.0, 0.0, 0.3])
    assert (soft_threshold(weight, threshold)[2:5] == 0).all()
    random = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(soft_threshold(random, torch.zeros(1000)), random)
    expected = random.sign() * (random.abs() - 0.25).clamp(min=0)
    torch.testing.assert_close(soft_threshold(random, torch.full((1000,), 0.25)), expected, atol=1e-7, rtol=0)


def test_it_minimises_distance_and_penalty():
    """The proximal operator of t |x| at w: no other x has a smaller (x - w)^2 / 2 + t |x|."""
    grid = torch.linspace(-2, 2, 4001)
    for w, t in ((0.7, 0.3), (-1.2, 0.5), (0.2, 0.4)):
        best = grid[((grid - w).square() / 2 + t * grid.abs()).argmin()]
        made = soft_threshold(torch.tensor(w), torch.tensor(t))
        assert float(made) == pytest.approx(float(best), abs=1e-3)


def test_small_weights_count_more():
    alpha = importance(torch.tensor([0.0, -0.001, 0.099, 0.999]), 1e-3)
    assert alpha.tolist() == pytest.approx([1000, 500, 10, 1])


def plain_adamw(steps):
    return train(tiny(), Rpp(keep=None, gamma=0.0), context(), steps)


def test_without_gamma_it_is_adamw_bit_for_bit():
    class Nothing(Rpp):
        def attach(self, model, ctx):
            return model

        def callbacks(self, ctx):
            return []

    made, expected = plain_adamw(6), train(tiny(), Nothing(keep=None), context(), 6)
    assert all(torch.equal(weight, expected.get_parameter(name)) for name, weight in made.unique_weights())


def test_zeros_are_exact_and_more_gamma_makes_more():
    left = []
    for gamma in (0.0, 1e-4, 1e-3, 1e-2):
        method = Rpp(keep=None, gamma=gamma, every=2)
        made = train(tiny(), method, context(), 10)
        left.append(sum(int((made.get_parameter(name) != 0).sum()) for name in method.weights(made)))
    assert left[0] == 4 * 256 + 2 * 384 + 256
    assert left == sorted(left, reverse=True)
    assert left[3] < left[1] < left[0]


def test_biases_norms_tables_and_the_classifier_are_not_shrunk():
    strong, plain = train(tiny(), Rpp(keep=None, gamma=1.0), context(), 1), plain_adamw(1)
    spared = {name for name, weight in plain.unique_weights() if torch.equal(weight, strong.get_parameter(name))}
    assert spared == {name for name, _ in plain.unique_weights()} - {*Rpp().weights(plain)}


def step_of(gamma, rate, weight, epsilon=1e-3):
    """What one proximal step takes."""
    method = Rpp(keep=None, gamma=gamma, epsilon=epsilon)
    model = tiny()
    model.head.dense.weight.data.fill_(weight)
    state = Reweighting({"head.dense.weight": model.head.dense.weight}, gamma)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    run = type("State", (), {"global_step": 0, "max_steps": 10})
    Proximal(method, state).on_optimizer_step(None, run, None, model=model, optimizer=optimizer)
    return weight - float(model.head.dense.weight.detach()[0, 0])


def test_the_threshold_is_rate_times_gamma_times_alpha():
    assert step_of(1e-3, 0.1, 0.049) == pytest.approx(0.1 * 1e-3 / 0.05, rel=1e-3)
    assert step_of(1e-3, 0.2, 0.049) == pytest.approx(2 * step_of(1e-3, 0.1, 0.049), rel=1e-3)
    assert step_of(1e-3, 0.0, 0.0625) == 0  # a number that float32 holds


def test_the_least_gamma_that_is_enough():
    """A loss without gradient: after the steps until alpha is renewed the wanted share is exactly zero, no more."""
    sizes = torch.arange(1, 1001)[torch.randperm(1000, generator=torch.Generator().manual_seed(1))] * 1e-4
    rate, steps = 1e-2, 8
    gamma = sufficient(sizes, 0.4, epsilon=1e-3, length=rate * steps)
    for factor, zeros in ((1 + 1e-3, 600), (0.99, None)):
        weight, alpha = sizes.clone(), importance(sizes, 1e-3)
        for _ in range(steps):
            weight = soft_threshold(weight, alpha * rate * gamma * factor)
        gone = int((weight == 0).sum())
        assert gone == zeros if zeros else gone < 600
    assert sufficient(sizes, 1.0, epsilon=1e-3, length=1.0) == 0
    assert sufficient(sizes, 0.4, epsilon=1e-3, length=0.0) == 0


def test_a_share_is_reached_by_raising_gamma():
    method, shares = Rpp(keep=0.35, begin=0.1, end=0.6, every=2), []

    def look(step, model):
        weights = [model.get_parameter(name) for name in method.weights(model)]
        shares.append(sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights))

    settings = SETTINGS.model_copy(update={"learning_rate": 1e-3})
    made = train(tiny(), method, context(), 60, look, settings)
    assert shares[5] == 1
    assert shares[20] < 0.8
    assert shares[-1] < 0.45, "gamma did it, not the cut in the end"
    weights = [made.get_parameter(name) for name in method.weights(made)]
    assert sum(int((w != 0).sum()) for w in weights) <= round(0.35 * sum(w.numel() for w in weights))


def test_what_it_needs_beside_the_weights_is_checkpointed():
    ctx = context()
    Rpp(gamma=0.5).attach(tiny(), ctx)
    state = ctx.state["rpp"]
    assert float(state.gamma) == 0.5
    assert {"gamma", *(f"alpha_{i}" for i in range(7))} == set(state.state_dict())
    assert not list(state.parameters())
