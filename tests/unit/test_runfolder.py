"""A run's folder goes on with the same run alone, and says in one line what differs."""

import pytest

from bertpress.errors import UserError
from bertpress.runfolder import RunFolder, differences

ASKED = {"model": "m", "recipe": {"stages": [{"name": "a", "train": {"epochs": 3}}]}, "seed": 0}


def test_the_same_run_goes_on_and_another_is_refused_by_place_and_value(tmp_path):
    RunFolder.open(tmp_path / "run", ASKED, resume=False)
    RunFolder.open(tmp_path / "run", ASKED, resume=True)
    with pytest.raises(UserError, match="holds a run already; add --resume"):
        RunFolder.open(tmp_path / "run", ASKED, resume=False)
    other = {**ASKED, "recipe": {"stages": [{"name": "a", "train": {"epochs": 5}}]}}
    with pytest.raises(UserError, match=r"holds a run with recipe.stages.0.train.epochs=3, not 5; choose another"):
        RunFolder.open(tmp_path / "run", other, resume=True)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        RunFolder.open(tmp_path, ASKED, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_step_is_made_once(tmp_path):
    folder, calls = RunFolder.open(tmp_path / "run", ASKED, resume=False), []
    for _ in range(2):
        found = folder.once("a/b.json", lambda: calls.append(1) or {"value": 1.5})
    assert (found, calls) == ({"value": 1.5}, [1])


def test_differences():
    assert list(differences({"a": [1, 2]}, {"a": [1, 2]})) == []
    assert list(differences({"a": [1, 2], "b": 1}, {"a": [1, 3]})) == [("a.1", "2", "3"), ("b", "1", "null")]
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == [("a", "[1]", "[1, 2]")]


def test_what_a_killed_process_began_is_cleared_away(tmp_path):
    (tmp_path / ".run.json.123.partial").write_text("{")
    RunFolder.open(tmp_path, {"a": 1}, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
