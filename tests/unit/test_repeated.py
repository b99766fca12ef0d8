"""Stages that another run has done: what is taken over, and what is not."""

import pytest

from bertpress.repeated import take_over
from bertpress.runfolder import RunFolder

CUT, BITS, EXITS = ({"name": name, "use": []} for name in ("cut", "bits", "exits"))


def identity(*stages, seed=0, epochs=3):
    recipe = {"name": "any", "fine_tune": {"epochs": epochs}, "stages": [dict(stage) for stage in stages]}
    return {"model": "a model", "seed": seed, "recipe": recipe}


@pytest.fixture
def known(tmp_path):
    """A run with two finished stages, and one that was stopped."""
    folder = RunFolder.open(tmp_path / "known", identity(CUT, BITS, EXITS), resume=False)
    for name in ("01-cut", "02-bits"):
        folder.write(f"stages/{name}/model/weights", name)
        folder.write(f"stages/{name}/stage.json", {"seconds": 1.0})
        folder.write(f"stages/{name}/training/state", "large")
    folder.write("stages/03-exits/training/state", "large")
    return folder.path


def taken(tmp_path, known, *stages, **changes):
    said = []
    folder = RunFolder.open(tmp_path / "new", identity(*stages, **changes), resume=False)
    take_over(folder, known, said.append)
    found = sorted(path.parent.name for path in folder.path.glob("stages/*/model"))
    assert len(said) == len(found)
    return found, folder


def test_stages_that_both_begin_with_are_taken_over_without_their_checkpoints(tmp_path, known):
    found, folder = taken(tmp_path, known, CUT, EXITS, BITS)
    assert found == ["01-cut"]
    assert (folder / "stages/01-cut/model/weights").read_text() == "01-cut"
    assert folder.read("stages/01-cut/stage.json") == {"seconds": 1.0}
    assert not (folder / "stages/01-cut/training").exists()


def test_what_was_stopped_is_not(tmp_path, known):
    assert taken(tmp_path, known, CUT, BITS, EXITS)[0] == ["01-cut", "02-bits"]


@pytest.mark.parametrize("changes", [{"seed": 1}, {"epochs": 4}])
def test_nothing_is_where_the_runs_differ(tmp_path, known, changes):
    assert taken(tmp_path, known, CUT, BITS, **changes)[0] == []


def test_nothing_is_where_the_first_stage_differs(tmp_path, known):
    assert taken(tmp_path, known, {**CUT, "use": ["other"]}, BITS)[0] == []


def test_nothing_is_where_there_is_no_run(tmp_path):
    assert taken(tmp_path, tmp_path / "nowhere", CUT)[0] == []


def test_a_stage_that_is_there_stays(tmp_path, known):
    folder = RunFolder.open(tmp_path / "new", identity(CUT), resume=False)
    folder.write("stages/01-cut/model/weights", "own")
    take_over(folder, known, lambda line: None)
    assert (folder / "stages/01-cut/model/weights").read_text() == "own"
