"""Whole searches on a tiny model: the winner, the rows that it was chosen on, going on after a stop, the budget.

They are by size, so that no clock decides what comes out, and the clock itself is a fake.
"""

import json
from contextlib import nullcontext
from importlib.util import find_spec

import pytest

import bertpress
from bertpress.errors import DataError, EngineError, Interrupted, UserError
from bertpress.search import candidates, conduct, ending, makers
from bertpress.search.setting import Setting
from bertpress.training import TrainSettings

TASK = "text-classification"


def fake_interleave(timed, texts, **_):
    """A millisecond for each kilobyte."""
    sizes = [sum(file.stat().st_size for file in one.path.glob("*.safetensors")) for one in timed]
    return [
        {
            "name": one.name,
            "latency_ms": {"median": size / 1000},
            "model_latency_ms": {"median": size / 1100},
            "peak_memory_bytes": size,
        }
        for one, size in zip(timed, sizes, strict=True)
    ]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One cut and no workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ending, "interleave", fake_interleave)
        patch.setattr(candidates, "CUTS", (0.5,))
        yield


@pytest.fixture(scope="module")
def data(tiny_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("train", tiny_rows(TASK, 200, 1)), ("validation", tiny_rows(TASK, 24, 2))):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def teacher(tiny_model, tiny_rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    settings = TrainSettings(epochs=8, learning_rate=2e-3)
    rows = {"train": tiny_rows(TASK, 200, 1), "validation": tiny_rows(TASK, 24, 2)}
    bertpress.train(tiny_model, task=TASK, out=out, settings=settings, **rows)
    return out / "model"


def search(model, data, out, **changes):
    options = {"target": "size", "max_drop": 5.0, "budget": "1h", "students": 1, "threads": 1, "seed": 3}
    return bertpress.search(model, task=TASK, data=data, out=out, **{**options, **changes})


@pytest.fixture(scope="module")
def stopped(teacher, data, tmp_path_factory):
    """A search that was stopped in its second candidate, then by a validation split that cannot be read, then ended."""
    out, attempt, seen = tmp_path_factory.mktemp("search") / "out", Setting.attempt, []

    def stopping(self, candidate, cost):
        if candidate.kind == "cut" and not seen:
            seen.append(candidate.name)
            raise KeyboardInterrupt
        return attempt(self, candidate, cost)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setting, "attempt", stopping)
        with pytest.raises(Interrupted, match="^the search was interrupted$"):
            search(teacher, data, out)
    validation = (data / "validation.jsonl").read_text(encoding="utf-8")
    (data / "validation.jsonl").write_text("no JSON\n", encoding="utf-8")
    with pytest.raises(DataError, match="validation"):
        search(teacher, data, out, resume=True)
    (data / "validation.jsonl").write_text(validation, encoding="utf-8")
    before = {path.name: path.read_text() for path in out.glob("candidates/*/tried.json")}
    there = (out / "model" / "bertpress.json").is_file()
    return out, search(teacher, data, out, resume=True), there, before


def test_all_is_chosen_before_validation_is_read(stopped):
    out, found, there, before = stopped
    assert there  # the winner stood
    assert {path.name: path.read_text() for path in out.glob("candidates/*/tried.json")} == before
    assert found["rows"] == {"fit": 180, "chosen_on": 20, "split": "holdout", "validation": 24}


def test_the_winner_keeps_the_limit_and_is_an_artifact(stopped):
    out, found, _, _ = stopped
    names = [each["name"] for each in found["candidates"]]
    assert names == ["bits", "tokens", "cut-0.5", "student-0-0"]
    sure = [each for each in found["candidates"] if each["probability"] >= 0.8]
    assert found["winner"]["cost"] == min(each["cost"] for each in sure)
    assert found["winner"]["name"] in found["front"]
    assert found["winner"]["drop"]["value"] <= 5
    made = bertpress.load(out)
    assert made.manifest.recipe["name"] == found["winner"]["name"]
    assert (out / "model/model.safetensors").stat().st_size == found["winner"]["cost"]
    page = (out / "search.html").read_text(encoding="utf-8")
    for words in (*names, "20 rows cut from train", "24 rows of validation, once"):
        assert words in page


def test_a_split_of_their_own_is_chosen_on(teacher, data, tiny_rows, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text((data / f"{split}.jsonl").read_text(encoding="utf-8"))
    rows = tiny_rows(TASK, 30, 4)
    (tmp_path / "selection.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = search(teacher, tmp_path, tmp_path / "out", students=0)
    assert found["rows"] == {"fit": 200, "chosen_on": 30, "split": "selection", "validation": 24}
    assert "30 rows of selection" in (tmp_path / "out/search.html").read_text(encoding="utf-8")


def test_one_that_was_stopped_ends_like_one_that_was_not(stopped, teacher, data, tmp_path):
    def outcome(found):
        keys = ("name", "kind", "cost", "drop", "choices", "failure")
        told = [{key: each[key] for key in keys} for each in found["candidates"]]
        return told, found["front"], found["winner"]["name"], found["winner"]["validation"], found["rows"]

    assert outcome(search(teacher, data, tmp_path / "out")) == outcome(stopped[1])


def test_when_the_time_is_over_the_anchor_is_returned(teacher, data, tmp_path):
    found = search(teacher, data, tmp_path / "out", budget="0.01s", students=None)
    assert [each["name"] for each in found["candidates"]] == ["bits"]
    assert found["winner"]["name"] == "bits"
    assert found["budget"]["seconds"] == 0.01


def test_mistakes_are_told_before_anything_is_made(teacher, data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="^--budget soon: must be"):
        search(teacher, data, out, budget="soon")
    with pytest.raises(EngineError, match="^search: engine=openvino must be torch where the target is size$"):
        search(teacher, data, out, engine="openvino")
    (tmp_path / "train.jsonl").write_text((data / "train.jsonl").read_text())
    with pytest.raises(DataError, match="no split 'validation'"):
        search(teacher, tmp_path, out)
    assert not out.exists()


@pytest.mark.slow
def test_latencies_are_predicted_and_exits_complement_whole_and_student(teacher, data, tmp_path, monkeypatch):
    def timer(blueprint, part, unit):
        return 0.1 + 0.1 * part.heads if unit == "attention" else 0.1 + sum(part.ffn) / 64

    monkeypatch.setattr(conduct, "on_this_machine", lambda tokens, engine: timer)
    monkeypatch.setattr(candidates, "CUTS", ())
    said = []
    found = search(
        teacher, data, tmp_path / "out", target="latency", max_drop=60.0, students=1, tokens=6, say=said.append
    )
    names = [each["name"] for each in found["candidates"]]
    assert names == ["bits", "student-0-0", "bits-exits", "student-0-0-exits"]
    bits, student, whole_exits, exits = found["candidates"]
    assert whole_exits["cost"] <= bits["cost"]
    assert found["engine"] == "openvino"
    assert bits["cost"] == bits["measured"]["latency_ms"]["median"]
    whole = 2 * (0.1 + 0.1 * 4 + 0.1 + 1)
    cut = sum(
        0.2 + 0.1 * h + f / 64 for h, f in zip(student["figures"]["heads"], student["figures"]["ffn"], strict=True)
    )
    scale = bits["measured"]["model_latency_ms"]["median"] / whole
    assert student["cost"] == pytest.approx(bits["cost"] - scale * (whole - cut))
    assert exits["cost"] <= student["cost"]
    assert [line for line in said if line.startswith("stage cut is that of ")] != []
    assert said.count("stage cut") == 1  # exits were put on the student, which was not trained again
    assert not list((tmp_path / "out").rglob("stages"))
    assert found["tokens"] == 6


def test_as_many_students_are_under_way_as_there_is_room_for(teacher, data, tmp_path, monkeypatch):
    """They end in another order than they began; none is begun twice, and no more than asked for."""
    seen, ended = [], []

    class Two(makers.Here):
        room = 2

        def begin(self, candidate):
            super().begin(candidate)
            seen.append((candidate.name, len(self.begun)))

        def ended(self):
            ended.append(self.begun[-1].name)
            return super().ended()

    monkeypatch.setattr(conduct, "makers_of", lambda setting, ray: nullcontext(Two()))
    found = search(teacher, data, tmp_path / "out", students=5)
    students = [each["name"] for each in found["candidates"] if each["kind"] == "student"]
    assert len(students) == len(set(students)) == 5
    assert sorted(students) == sorted(name for name, _ in seen)
    assert [count for _, count in seen][:2] == [1, 2]
    assert ended != [name for name, _ in seen]
    assert sorted(ended) == sorted(students)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray (pip install 'bertpress[ray]')")
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_makes_the_same_students(teacher, data, tmp_path):
    def outcome(found):
        return {each["name"]: (each["drop"], each["cost"]) for each in found["candidates"]}

    alone = search(teacher, data, tmp_path / "alone", students=2)
    together = search(teacher, data, tmp_path / "together", students=2, ray="local")
    assert outcome(together) == outcome(alone)
    for name in ("student-0-0", "student-1-0"):
        assert (tmp_path / "together/candidates" / name / "made.json").is_file()
