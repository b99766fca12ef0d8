"""Rows whose label is None: encoded in training alone, without a share in the loss."""

import pytest
import torch
from sample_run import make_data, make_model, make_tokenizer

from bertpress.errors import DataError
from bertpress.tasks import Collate, encode, from_records, loss, resolve

KINDS = ["text-classification", "text-regression", "sentence-similarity", "token-classification", "question-answering"]
TOKENIZER = make_tokenizer()


def batches(task, rows):
    """The rows with every second label taken away; those that are left; those that are not."""
    taken = [None if i % 2 else value for i, value in enumerate(rows.column(task.label_column))]
    mixed = rows.with_columns(**{task.label_column: taken})
    parts = [mixed, rows.subset(range(0, len(rows), 2)), mixed.subset(range(1, len(rows), 2))]
    encoded = [encode(task, part, TOKENIZER, training=True) for part in parts]
    return [Collate(0)([data[i] for i in range(len(data))]) for data in encoded]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_rows_with_labels(kind):
    task, data, _, _ = make_data(kind, count=8)
    mixed, labelled, unlabelled = batches(task, data.rows)
    model = make_model(task, TOKENIZER, seed=1).eval()

    def value(batch):
        names = ("input_ids", "attention_mask", "token_type_ids")
        return loss(task, model(**{name: batch[name] for name in names}).logits, batch)

    torch.testing.assert_close(value(mixed), value(labelled))
    assert value(labelled) > 1e-3
    nothing = value(unlabelled)
    assert nothing == 0
    nothing.backward()
    assert not any(weight.grad.any() for weight in model.parameters() if weight.grad is not None)


def test_rows_with_several_labels():
    task = resolve("text-classification", multi_label=True, id2label=["a", "b", "c"])
    rows = from_records([{"text": "w1", "label": ["a"]}, {"text": "w2", "label": []}, {"text": "w3", "label": ["b"]}])
    mixed, labelled, unlabelled = batches(task, rows)
    logits = torch.tensor([[1.0, -2.0, 0.5], [9.0, 9.0, 9.0], [0.1, 0.2, 0.3]])
    torch.testing.assert_close(loss(task, logits, mixed), loss(task, logits[::2], labelled))
    assert loss(task, logits[1:2], unlabelled) == 0


def test_a_missing_label_is_a_mistake_where_labels_are_compared():
    task, data, _, _ = make_data(count=16)
    rows = data.rows.subset(range(4)).with_columns(label=[0, None, 1, 0])
    with pytest.raises(DataError, match="memory row 2, column 'label': the label is missing"):
        encode(task, rows, TOKENIZER, training=False)


def test_rows_divide_and_follow_each_other():
    rows = from_records([{"text": str(i), "label": i % 2} for i in range(10)])
    chosen, rest = rows.divided(3, seed=4)
    assert chosen.columns == rows.limit(3, seed=4).columns
    assert sorted(chosen.columns["text"] + rest.columns["text"]) == [str(i) for i in range(10)]
    both = chosen.followed_by(rest)
    assert both.columns["text"] == chosen.columns["text"] + rest.columns["text"]
    assert [both.place(i) for i in range(10)] == [f"memory row {int(text) + 1}" for text in both.columns["text"]]
