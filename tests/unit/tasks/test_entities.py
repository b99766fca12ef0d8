import numpy as np
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities

from bertpress.tasks import entities, resolve, score

TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]


def test_by_hand():
    assert entities([]) == []
    assert entities(["B-a", "B-a", "I-a", "I-b", "O", "I-a"]) == [("a", 0, 1), ("a", 1, 3), ("b", 3, 4), ("a", 5, 6)]


def test_random_tags_as_seqeval_reads_them():
    rng = np.random.default_rng(1)
    truth = [[TAGS[i] for i in rng.integers(0, 5, n)] for n in rng.integers(1, 15, 200)]
    said = [[t if rng.random() < 0.7 else TAGS[rng.integers(5)] for t in row] for row in truth]
    for row in said:
        assert entities(row) == [(kind, a, b + 1) for kind, a, b in get_entities(row)]
    task = resolve("wnut17", id2label=TAGS)
    assert abs(score(task, said, truth)["entity_f1"].value - 100 * f1_score(truth, said)) < 1e-9
