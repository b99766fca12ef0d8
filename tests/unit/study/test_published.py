"""Table 1 against itself: its averages from its cells, its sizes from the shapes that it describes."""

import pytest

from bertpress.encoder.blueprint import uniform
from bertpress.measure.size import BERT_BASE_PARAMETERS
from bertpress.recipe import shipped
from bertpress.study.published import BERT_BASE, NAMES, ROWS, TASKS, mean_drop

PARTS = uniform(layers=12, hidden_size=768, heads=12, ffn=3072).parameters()
EMBEDDINGS = PARTS["embeddings"]
ENCODER = sum(PARTS[name] for name in ("attention_in", "attention", "attention_out", "ffn"))
MISPRINTS = {"Movement pruning": 4.70, "AdaBERT": 1.73}


def row(name):
    return next(row for row in ROWS if row.method == name)


@pytest.mark.parametrize("name", NAMES)
def test_the_average_drop_follows_from_the_cells(name):
    found = mean_drop(row(name))
    if name in MISPRINTS:
        assert found == pytest.approx(MISPRINTS[name], abs=0.005)
        assert abs(found - row(name).drop) > 0.02
        assert f"its cells give a drop of {MISPRINTS[name]:.2f}" in row(name).notes
    else:
        assert row(name).drop == pytest.approx(found, abs=0.0101)  # the survey cuts digits off


def percent(embeddings, encoder, pooler=True):
    return 100 * (embeddings * EMBEDDINGS + encoder * ENCODER + pooler * 768 * 769) / BERT_BASE_PARAMETERS


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("DistilBERT", percent(1, 1 / 2, pooler=False)),  # half the layers
        ("MiniLM", percent(1, 1 / 2, pooler=False)),
        ("SNIP", percent(1, 1 / 2, pooler=False)),
        ("Movement pruning", percent(1, 0.03, pooler=False)),  # 3 % of the encoder's weights
        ("RPP", percent(1, 0.587)),
        ("Lottery ticket", percent(1, 0.351)),
    ],
)
def test_sizes_follow_from_the_shapes(name, size):
    assert row(name).size == pytest.approx(size, abs=1.0)


def test_rows_are_whole():
    assert BERT_BASE.scores.keys() == set(TASKS)
    assert len(set(NAMES)) == len(ROWS) == 25
    assert sum(len(row.scores) for row in ROWS) == 68
    for row in ROWS:
        assert row.setup in ("A", "S", "A,S")
        assert row.scores
        assert list(row.scores) == [task for task in TASKS if task in row.scores]


def test_recipes_that_are_shipped_have_one_row_each():
    named = [row.recipe for row in ROWS if row.recipe in shipped()]
    assert len(named) == len(set(named)) >= 16
