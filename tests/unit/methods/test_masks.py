"""Exact shares whatever the ties, and zeros that a later stage cannot bring back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import symmetric_grid
from bertpress.encoder.model import build_model
from bertpress.encoder.transforms import put, transforms
from bertpress.methods.masks import Mask, hold_zeros, largest, largest_of_all, largest_of_each
from bertpress.methods.transform import FakeQuantizer, bake
from bertpress.methods.weights import matrices, tables


@given(st.lists(st.sampled_from([0.0, 1.0, 1.0, 2.0, -3.0]), min_size=1, max_size=30), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_the_largest_are_those_of_a_stable_sort(values, share):
    scores, count = torch.tensor(values), round(share * len(values))
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]] = True
    assert torch.equal(largest(scores, count), expected)


def test_bad_counts_and_scores_are_refused():
    with pytest.raises(ValueError, match=r"count=4 must be in \[0, 3\]"):
        largest(torch.ones(3), 4)
    with pytest.raises(ValueError, match="must be numbers"):
        largest(torch.tensor([1.0, float("nan")]), 1)


def test_all_weights_are_ranked_together_or_each_for_itself():
    scores = {"a": torch.tensor([[9.0, 8.0], [7.0, 6.0]]), "b": torch.tensor([[5.0, 4.0, 3.0, 2.0]])}
    whole = largest_of_all(scores, 0.5)
    assert (whole["a"].sum(), whole["b"].sum()) == (4, 0)
    floored = largest_of_all(scores, 0.5, floor=0.25)
    assert (floored["a"].tolist(), floored["b"].tolist()) == (
        [[True, True], [True, False]],
        [[True, False, False, False]],
    )
    each = largest_of_each(scores, 0.5)
    assert (each["a"].tolist(), each["b"].tolist()) == ([[True, True], [False, False]], [[True, True, False, False]])


def test_a_smaller_share_is_a_part_of_a_larger_one():
    scores = {"a": torch.randn(20, 30), "b": torch.randn(7, 5)}
    before = largest_of_all(scores, 0.9)
    for keep in (0.7, 0.31, 0.1):
        after = largest_of_all(scores, keep)
        assert sum(int(kept.sum()) for kept in after.values()) == round(keep * 635)
        assert all(not (after[name] & ~before[name]).any() for name in scores)
        before = after


def made():
    torch.manual_seed(0)
    head = HeadSpec(kind="sequence", labels=2)
    return build_model(uniform(layers=1, hidden_size=32, heads=2, ffn=64, vocabulary=40, head=head))


def test_zeros_of_an_earlier_stage_stay_while_training():
    model = made()
    name = "encoder.layers.0.ffn.0.inner.weight"
    weight = model.get_parameter(name)
    zero = torch.rand_like(weight) < 0.5
    weight.data[zero] = 0
    put(model, name, FakeQuantizer(lambda w: symmetric_grid(w, 4, (1, 0))))
    hold_zeros(model)
    masked = [
        other for other, _ in model.unique_weights() if any(isinstance(t, Mask) for t in transforms(model, other))
    ]
    assert masked == [name], "nothing else was pruned"
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randint(5, 40, (4, 6)), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
    bake(model)
    after = model.get_parameter(name)
    assert not after[zero].any()
    assert name in model.storage, "how the quantizer below stores it is still known"


def test_a_transform_that_prunes_is_left_alone():
    model = made()
    name = "encoder.layers.0.attention.query.weight"
    model.get_parameter(name).data[:16] = 0
    put(model, name, Mask(torch.ones(32, 32, dtype=torch.bool)))
    hold_zeros(model)
    assert len(transforms(model, name)) == 1


def test_weights_go_by_their_names():
    model = made()
    layer = [f"attention.{part}" for part in ("query", "key", "value", "output")] + ["ffn.0.inner", "ffn.0.outer"]
    encoder = [f"encoder.layers.0.{part}.weight" for part in layer]
    assert matrices(model) == [*encoder, "head.dense.weight"]
    assert matrices(model, head=False) == encoder
    assert matrices(model, classifier=True) == [*encoder, "head.dense.weight", "head.classifier.weight"]
    assert list(tables(model)) == ["word", "position", "segment"]
