import datasets
import pytest

from bertpress.errors import DataError
from bertpress.tasks import Rows, from_records, from_texts, holdout, resolve


def rows(count=20):
    return Rows({"text": [f"t{i}" for i in range(count)], "label": [i % 3 for i in range(count)]}, source="x.csv")


def test_subset_remembers_where_rows_came_from():
    picked = rows().subset([7, 3]).subset([1])
    assert picked.columns == {"text": ["t3"], "label": [0]}
    assert picked.place(0) == "x.csv row 4"
    assert picked.row(0) == {"text": "t3", "label": 0}


def test_limits_are_nested_deterministic_and_ordered():
    few, many = rows().limit(5).column("text"), rows().limit(9).column("text")
    assert set(few) < set(many)
    assert few == rows().limit(5).column("text") == sorted(few, key=lambda t: int(t[1:]))
    assert few != [f"t{i}" for i in range(5)]
    assert rows().limit(None).columns == rows().limit(99).columns == rows().columns
    with pytest.raises(DataError, match=r"x\.csv: limit=0 must be at least 1"):
        rows().limit(0)


def test_missing_column_lists_the_others():
    with pytest.raises(DataError, match=r"x\.csv: no column 'sentence' \(available: text, label\)"):
        rows().column("sentence")


def test_holdout_partitions_and_repeats():
    rest, held = holdout(rows(), 0.25, seed=3)
    assert len(held) == 5
    assert sorted(rest.column("text") + held.column("text")) == sorted(rows().column("text"))
    assert holdout(rows(), 0.25, seed=3)[1].columns == held.columns
    assert holdout(rows(), 0.25, seed=4)[1].columns != held.columns
    assert held.split == "holdout"
    assert held.place(0) == f"x.csv row {int(held.column('text')[0][1:]) + 1}"


def test_holdout_keeps_groups_together():
    grouped = Rows({"context": [f"c{i // 4}" for i in range(40)], "id": list(range(40))})
    rest, held = holdout(grouped, 0.3, group="context")
    assert len(held) == 12
    assert not set(rest.column("context")) & set(held.column("context"))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_holdout_share_bounds(share):
    with pytest.raises(DataError, match=rf"holdout share={share} must be in \(0, 1\)"):
        holdout(rows(), share)


def test_holdout_needs_two_groups():
    with pytest.raises(DataError, match="cannot be cut in two"):
        holdout(Rows({"c": ["x"] * 5}), 0.5, group="c")
    rest, held = holdout(rows(2), 0.01)
    assert (len(rest), len(held)) == (1, 1)


def test_from_records_takes_datasets_with_their_names():
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-x"])),
        }
    )
    data = datasets.Dataset.from_dict({"text": ["a"], "label": [1], "tags": [[0, 1]]}, features=features)
    found = from_records(data)
    assert found.columns == {"text": ["a"], "label": [1], "tags": [[0, 1]]}
    assert found.names == {"label": ("no", "yes"), "tags": ("O", "B-x")}


def test_from_records_takes_mappings():
    assert from_records({"a": (1, 2)}).columns == from_records([{"a": 1}, {"a": 2}]).columns == {"a": [1, 2]}
    with pytest.raises(DataError, match=r"memory row 2: columns b differ from row 1 \(a\)"):
        from_records([{"a": 1}, {"b": 2}])
    with pytest.raises(ValueError, match="columns of unequal length"):
        Rows({"a": [1], "b": []})


def test_from_texts():
    assert from_texts(resolve("sst2"), ["x"]).columns == {"sentence": ["x"]}
    pair = resolve("mrpc")
    assert from_texts(pair, [("x", "y"), {"sentence2": "z", "sentence1": "w"}]).columns == {
        "sentence1": ["x", "w"],
        "sentence2": ["y", "z"],
    }
    with pytest.raises(DataError, match=r"input line 1: needs two texts \(sentence1, sentence2\), got one"):
        from_texts(pair, ["x"])
    with pytest.raises(DataError, match=r"input line 1: no field 'sentence2' \(available: sentence1\)"):
        from_texts(pair, [{"sentence1": "x"}])
