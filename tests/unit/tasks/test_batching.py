import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bertpress.tasks import BucketSampler, Collate, Rows, encode, resolve

LENGTHS = np.random.default_rng(0).integers(3, 90, 1003).tolist()


def fill(lengths, batches):
    """Share of a padded batch that is no padding."""
    return sum(lengths) / sum(len(b) * max(lengths[i] for i in b) for b in batches)


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_example_once(shuffle):
    batches = list(BucketSampler(LENGTHS, 16, shuffle=shuffle))
    assert sorted(i for batch in batches for i in batch) == list(range(1003))
    assert sorted(map(len, batches)) == [11] + [16] * 62
    assert len(BucketSampler(LENGTHS, 16, shuffle=shuffle)) == 63


def test_order_is_a_function_of_seed_and_epoch():
    order = {(s, e): list(BucketSampler(LENGTHS, 16, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)}
    assert len({str(batches) for batches in order.values()}) == 4
    torch.manual_seed(5)
    np.random.default_rng(7).random()
    sampler = BucketSampler(LENGTHS, 16, seed=1)
    assert list(sampler) == list(sampler) == order[1, 0]
    sampler.set_epoch(1)
    assert list(sampler) == order[1, 1]


def test_little_padding_yet_random():
    shuffled = list(BucketSampler(LENGTHS, 16))
    assert fill(LENGTHS, shuffled) > 0.94
    assert fill(LENGTHS, [list(range(i, min(i + 16, 1003))) for i in range(0, 1003, 16)]) < 0.6
    longest = [max(LENGTHS[i] for i in batch) for batch in shuffled]
    assert longest != sorted(longest)
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.4
    ordered = [max(LENGTHS[i] for i in batch) for batch in BucketSampler(LENGTHS, 16, shuffle=False)]
    assert ordered == sorted(ordered, reverse=True)


def test_drop_last_and_groups():
    batches = list(BucketSampler(LENGTHS, 16, drop_last=True))
    assert [len(b) for b in batches] == [16] * 62
    assert len(BucketSampler(LENGTHS, 16, drop_last=True)) == 62
    pairs = list(BucketSampler(LENGTHS[:1000], 16, group=2))
    assert all(b[0::2] == [i - 1 for i in b[1::2]] and b[0] % 2 == 0 for b in pairs)
    assert max(map(len, pairs)) == 32
    assert list(BucketSampler([], 4)) == []
    for options in ({"batch_size": 0}, {"batch_size": 4, "group": 2}):
        with pytest.raises(ValueError, match=r"must be at least 1|are not in groups of 2"):
            BucketSampler(LENGTHS, **options)


def item(*ids, **more):
    return {"input_ids": np.array(ids, np.int32), "index": 0, **more}


def test_padding():
    batch = Collate(9)(
        [item(1, 2, 3, token_type_ids=np.array([0, 0, 1], np.int8)), item(4, token_type_ids=np.array([1], np.int8))]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert all(value.dtype == torch.int64 for value in batch.values())
    assert "labels" not in batch


@pytest.mark.parametrize(
    ("multiple", "limit", "width"), [(1, None, 3), (8, None, 8), (8, 5, 5), (8, 2, 3), (3, None, 3)]
)
def test_multiples(multiple, limit, width):
    batch = Collate(multiple_of=multiple, max_length=limit)([item(1, 2, 3), item(1)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, width)
    with pytest.raises(ValueError, match="multiple_of=0 must be at least 1"):
        Collate(multiple_of=0)


def test_labels_of_each_kind():
    ids = Collate()([item(1, labels=2), item(1, labels=0)])["labels"]
    assert ids.tolist() == [2, 0]
    assert ids.dtype == torch.int64
    scores = Collate()([item(1, labels=2.5), item(1)])["labels"]  # one label for two sides
    assert scores.tolist() == [2.5]
    assert scores.dtype == torch.float32
    tags = Collate()([item(1, 2, labels=np.array([-100, 3])), item(1, labels=np.array([1]))])["labels"]
    assert tags.tolist() == [[-100, 3], [1, -100]]
    several = Collate()([item(1, labels=np.array([0, 1], np.float32))])["labels"]
    assert several.tolist() == [[0.0, 1.0]]
    span = Collate()([item(1, start_positions=3, end_positions=5)])
    assert (span["start_positions"].tolist(), span["end_positions"].tolist()) == ([3], [5])


def test_through_a_data_loader(wordpiece):
    rows = Rows({"sentence1": ["the cat"] * 5, "sentence2": ["is it good"] * 5, "label": [0.0, 1.0, 2.0, 3.0, 4.0]})
    encoded = encode(resolve("sentence-similarity"), rows, wordpiece, training=True)
    sampler = BucketSampler(encoded.lengths, 2, group=encoded.group)
    batches = list(DataLoader(encoded, batch_sampler=sampler, collate_fn=Collate(0)))
    assert [len(b["input_ids"]) for b in batches] == [2 * len(b["labels"]) for b in batches]
    for batch in batches:
        assert batch["labels"].tolist() == (batch["index"][0::2] / 2).tolist()
