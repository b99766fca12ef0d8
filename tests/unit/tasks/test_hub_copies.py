import datasets
import pytest

from bertpress.errors import DataError
from bertpress.tasks import KNOWN, hub, load, resolve, with_labels


@pytest.fixture
def served(monkeypatch):
    """The hub answers with these rows; what was asked for is recorded."""
    asked = []

    def serve(columns, names=None):
        data = datasets.Dataset.from_dict(columns)
        if names:
            data = data.cast_column("label", datasets.ClassLabel(names=names))

        def answer(path, config, *, split, revision):
            asked.append((path, config, split, revision))
            return data

        monkeypatch.setattr(hub, "_resolvable", lambda: True)
        monkeypatch.setattr(datasets, "load_dataset", answer)
        return asked

    return serve


def test_a_split_with_its_label_names(served):
    asked = served({"sentence": ["a", "b"], "label": [1, 0]}, ["bad", "good"])
    rows = load(resolve("sst2"), "validation")
    assert asked == [("nyu-mll/glue", "sst2", "validation", None)]
    assert rows.source == "hub:nyu-mll/glue/sst2/validation"
    assert with_labels(resolve("sst2"), rows).labels == ("bad", "good")


def test_columns_and_splits_with_other_names(served):
    asked = served({"text": ["a", "b"], "coarse_label": [5, 0], "fine_label": [1, 2]})
    rows = load(resolve("trec"), "validation")
    assert asked[0][2:] == ("test", "refs/convert/parquet")
    assert rows.column("label") == [5, 0]
    assert with_labels(resolve("trec"), rows).labels == ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")


def test_unlabelled_rows_are_left_out(served):
    served({"premise": ["a", "b", "c"], "hypothesis": ["x", "y", "z"], "label": [-1, 2, 0]})
    rows = load(resolve("snli"), "train")
    assert rows.column("premise") == ["b", "c"]
    assert rows.place(0).endswith("row 2")
    served({"sentence": ["a"], "label": [-1]})
    with pytest.raises(DataError, match="hub:nyu-mll/glue/sst2/test: no labelled rows"):
        load(resolve("sst2"), "test")


def test_offline_is_one_line_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_resolvable", lambda: False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError) as caught:
        load(resolve("rte"), "train")
    assert str(caught.value).startswith("task rte: split 'train' of hub data set nyu-mll/glue/rte could not be loaded")
    assert str(caught.value).endswith("give --data DIR with train.* instead")
    assert "\n" not in str(caught.value)
    assert not datasets.config.HF_HUB_OFFLINE


def test_whether_the_hub_resolves(monkeypatch):
    asked = []

    def lookup(host, port):
        asked.append((host, port))
        raise OSError("no network")

    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "getaddrinfo", lookup)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert not hub._resolvable()
    assert asked == [("mirror.example", 443)]
    monkeypatch.setattr(hub.urllib.request, "getproxies", lambda: {"https": "proxy.example"})
    assert hub._resolvable()


def test_generic_kinds_need_a_folder():
    with pytest.raises(DataError, match=r"task text-classification: no hub data set is known for it; give --data DIR"):
        load(resolve("text-classification"), "train")


def test_all_known_tasks_but_slots_have_a_hub_copy():
    assert set(KNOWN) - set(hub.HUB) == {"snips-slots"}
