import math

import pytest
import torch

from bertpress.errors import DataError
from bertpress.tasks import cosines, loss, resolve

LN3 = math.log(3)


def test_classification_by_hand():
    logits = torch.tensor([[0.0, LN3], [0.0, LN3]])  # probabilities 1/4, 3/4
    batch = {"labels": torch.tensor([0, 1])}
    task = resolve("sst2", id2label=["a", "b"])
    assert loss(task, logits, batch).item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    weighted = task.replace(class_weights=(3.0, 1.0))
    assert loss(weighted, logits, batch).item() == pytest.approx((3 * math.log(4) + math.log(4 / 3)) / 4)


def test_several_labels_by_hand():
    task = resolve("sst2", id2label=["a", "b"], multi_label=True)
    logits, batch = torch.tensor([[LN3, LN3]]), {"labels": torch.tensor([[1.0, 0.0]])}
    assert loss(task, logits, batch).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    weighted = task.replace(class_weights=(2.0, 5.0))  # factors on the positive term
    assert loss(weighted, logits, batch).item() == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 2)


def test_scores_by_hand():
    batch = {"labels": torch.tensor([1.0, 4.0])}
    assert loss(resolve("stsb"), torch.tensor([[2.0], [2.0]]), batch).item() == pytest.approx(2.5)


def test_similarity_by_hand():
    """Rows (e1, e1) and (e1, e2): cosines 1 and 0; scores 5 and 1 of 0..5 are targets 1 and 0.2."""
    vectors = torch.tensor([[2.0, 0.0], [3.0, 0.0], [1.0, 0.0], [0.0, 4.0]])
    assert cosines(vectors).tolist() == [1.0, 0.0]
    task = resolve("sentence-similarity").replace(label_range=(0.0, 5.0))
    assert loss(task, vectors, {"labels": torch.tensor([5.0, 1.0])}).item() == pytest.approx(0.04 / 2)
    signed = task.replace(label_range=(-1.0, 1.0))
    assert loss(signed, vectors, {"labels": torch.tensor([1.0, -1.0])}).item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["wnut17", "masked-lm"])
def test_tokens_by_hand(name):
    logits = torch.tensor([[[0.0, LN3], [5.0, -5.0]], [[0.0, LN3], [7.0, 7.0]]])
    labels = torch.tensor([[0, -100], [1, -100]])
    wanted = (math.log(4) + math.log(4 / 3)) / 2
    assert loss(resolve(name), logits, {"labels": labels}).item() == pytest.approx(wanted)


def test_a_batch_without_labelled_tokens_has_no_gradient():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    value = loss(resolve("masked-lm"), logits, {"labels": torch.full((2, 3), -100)})
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().sum() == 0


def test_spans_by_hand_and_padding_has_no_share():
    logits = torch.tensor([[[LN3, 0.0], [0.0, 0.0]]])
    batch = {
        "start_positions": torch.tensor([0]),
        "end_positions": torch.tensor([1]),
        "attention_mask": torch.ones(1, 2),
    }
    wanted = (math.log(4 / 3) + math.log(2)) / 2
    assert loss(resolve("squad"), logits, batch).item() == pytest.approx(wanted)
    padded = torch.cat([logits, torch.full((1, 3, 2), 50.0)], 1)
    longer = {**batch, "attention_mask": torch.tensor([[1, 1, 0, 0, 0]])}
    assert loss(resolve("squad"), padded, longer).item() == pytest.approx(wanted)


def test_half_precision_is_summed_in_full():
    task = resolve("sst2", id2label=["a", "b"])
    assert loss(task, torch.randn(4, 2).bfloat16(), {"labels": torch.tensor([0, 1, 1, 0])}).dtype == torch.float32


def test_what_is_missing():
    with pytest.raises(DataError, match="task sst2: the rows have no labels, so there is no task loss"):
        loss(resolve("sst2"), torch.randn(1, 2), {})
    with pytest.raises(DataError, match="task squad: the rows have no answers"):
        loss(resolve("squad"), torch.randn(1, 2, 2), {})
    with pytest.raises(DataError, match="balanced class weights need the train split"):
        loss(resolve("sst2", class_weights="balanced"), torch.randn(1, 2), {"labels": torch.tensor([0])})
