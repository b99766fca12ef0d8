"""Gradients of scores, the choice above a threshold, the penalty and the ramp, against closed forms."""

import pytest
import torch

from bertpress.methods.movement_scores import above, masked, mean_activity, ramped, zero_scores


@pytest.mark.parametrize("block", [(1, 1), (2, 3), (1, 0), (0, 1)])
def test_the_gradient_of_a_score_is_the_sum_of_weight_times_gradient(block):
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=draw).requires_grad_()
    target = torch.randn(5, 7, generator=draw)
    scores = zero_scores(weight.shape, block).requires_grad_()
    kept = torch.rand(scores.shape, generator=draw) > 0.4
    made = masked(weight, scores, kept, block)
    (made * target).sum().backward()  # dL/dW' = target
    rows, columns = block[0] or 5, block[1] or 7
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            part = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
            expected = (weight.detach()[part] * target[part]).sum()
            torch.testing.assert_close(scores.grad[i, j], expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(made[part], weight[part] * kept[i, j])
            assert torch.equal(weight.grad[part], target[part] * kept[i, j])


def test_what_is_above_the_threshold_stays_and_the_floor_too():
    scores = torch.tensor([[-3.0, 0.0], [2.0, -1.0]])  # sigmoids .047 .5 .88 .27
    assert above(scores, 0.0, 0.0).all()
    assert above(scores, 0.3, 0.0).tolist() == [[False, True], [True, False]]
    assert above(scores, 0.5, 0.0).tolist() == [[False, False], [True, False]]  # more than the threshold, not as much
    assert not above(scores, 0.99, 0.0).any()
    assert above(scores, 0.99, 0.01).tolist() == [[False, False], [True, False]]
    assert above(scores, 0.99, 0.75).tolist() == [[False, True], [True, True]]


def test_activity_is_a_mean_of_means():
    found = mean_activity([torch.zeros(1, 2), torch.tensor([[100.0, -100.0, 100.0, 100.0]])])
    assert float(found) == pytest.approx((0.5 + 0.75) / 2)


def test_the_ramp_at_its_corners():
    def at(step):
        return ramped(step, 100, initial=1.0, final=0.2, warmup=0.1, cooldown=0.3)

    assert [at(0), at(10)] == [1.0, 1.0]
    assert at(40) == pytest.approx(0.2 + 0.8 * 0.5**3)
    assert [at(70), at(99)] == [0.2, 0.2]
    assert ramped(0, 1, initial=0.0, final=0.1, warmup=0.0, cooldown=0.99) == pytest.approx(0.0)
