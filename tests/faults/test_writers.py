"""Two writers at one place, a full disk, a folder that must not be written, a clock that jumps."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_run import make_model
from stopped_runs import TASK, TOKENIZER, fit
from tiny_task import tiny

from bertpress import artifact
from bertpress.artifact.folder import alone
from bertpress.errors import MachineError, UserError
from bertpress.runfolder import RunFolder
from bertpress.training.cache import OutputCache, Piece
from bertpress.training.checkpoint import Checkpoints

HOLDS = """
import sys, time
from pathlib import Path
from bertpress.artifact.folder import alone

with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


RECORDS = """
import sys
from bertpress import artifact

made = artifact.load(sys.argv[1])
for number in range(12):
    made.record({sys.argv[2]: {"value": number}})
"""


@pytest.fixture
def held(tmp_path):
    """A folder at which another process is at work, and that process."""
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    yield tmp_path, other
    other.kill()
    other.wait()
    other.stdout.close()


def test_a_folder_is_one_process_s_until_it_dies(held):
    folder, other = held
    with pytest.raises(MachineError, match="another process is at work there"):
        RunFolder.open(folder, {"seed": 0}, resume=True)
    assert list(folder.iterdir()) == []
    other.kill()
    other.wait()
    RunFolder.open(folder, {"seed": 0}, resume=True)
    with alone(folder):  # also once it has been released by this process
        pass
    with alone(folder):
        pass


def test_a_run_killed_while_it_wrote_its_identity_begins_again(tmp_path):
    (tmp_path / ".run.json.4194305.partial").write_text("{")
    RunFolder.open(tmp_path, {"seed": 0}, resume=True)
    assert (tmp_path / "run.json").is_file()


def test_a_damaged_identity_or_step_is_named(tmp_path):
    RunFolder.open(tmp_path, {"seed": 0}, resume=False)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: damaged .*delete it"):
        RunFolder.open(tmp_path, {"seed": 0}, resume=True)


def test_what_two_processes_enter_into_one_artifact_is_all_there(tmp_path):
    torch.manual_seed(0)
    place = artifact.save(tiny(), None, None, tmp_path / "a").path
    writers = [subprocess.Popen([sys.executable, "-c", RECORDS, str(place), name]) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    made = artifact.load(place)  # card and manifest agree
    assert made.manifest.metrics == {"one": {"value": 11}, "two": {"value": 11}}


class Rows:
    lengths = (3,) * 130

    def __getitem__(self, row):
        return {"input_ids": [row] * 3, "index": row}


def test_a_second_process_does_not_empty_the_cache_that_the_first_is_filling(tmp_path, monkeypatch):
    one, two = (OutputCache(tmp_path, "teacher", Rows(), range(130)) for _ in range(2))
    monkeypatch.setattr(Path, "exists", lambda path: False)  # both look before either has made the file
    begun = []

    def answers(rows):
        return [Piece("logits", 0, (500,))], [np.full(500, row + 1, np.float32) for row in rows]

    def dying(rows):
        if rows[0]:
            raise KeyboardInterrupt
        return answers(rows)

    def disturbed(rows):
        begun.append(rows)
        if len(begun) == 3:  # the other one begins in the middle of the first one's work, and is stopped
            with pytest.raises(KeyboardInterrupt):
                two.fill(dying, cap_bytes=2**20, report=lambda done, total: None)
        return answers(rows)

    assert one.fill(disturbed, cap_bytes=2**20, report=lambda done, total: None)
    (found,) = one.read(list(range(130)), 3).values()
    assert found[:, 0].tolist() == list(range(1, 131))


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    steady = fit(make_model(TASK, TOKENIZER), tmp_path / "steady")
    jumps = itertools.cycle((1e9, -1e9, 0.0, 4e9))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    jumping = fit(make_model(TASK, TOKENIZER), tmp_path / "jumping")
    for name, weight in steady.state_dict().items():
        assert torch.equal(weight, jumping.state_dict()[name])


def test_a_read_only_folder_is_one_line(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"step": 1})
    monkeypatch.setattr("pathlib.Path.open", denied)
    with pytest.raises(MachineError, match="cannot be written: Permission denied"):
        checkpoints.save(2, {"step": 2})
    monkeypatch.undo()
    assert checkpoints.latest()["step"] == 1
