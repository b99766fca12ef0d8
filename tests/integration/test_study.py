"""The example study on a tiny model: from the command line to tables and page, through a kill, a failure, a resume."""

import json
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest

from bertpress.artifact.manifest import hash_file

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples/study.yaml"
FILES = ("study.json", "study.html", "table.md", "table.csv", "table.tex")


@pytest.fixture(scope="module")
def command(tiny_model, tiny_data):
    changes = [f"models.0.path={tiny_model}", f"tasks.0.data={tiny_data()}", "timing.rounds=6", "threads=1",
               "rows.0.label=eight", "teacher.learning_rate=2e-3", "teacher.epochs=4"]  # fmt: skip
    return [sys.executable, "-m", "bertpress", "study", str(EXAMPLE), *(f"--set={change}" for change in changes)]


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    """A study that was killed after its first run, then resumed; the folder and what was there at the kill."""
    out = tmp_path_factory.mktemp("study") / "out"
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, start_new_session=True)
    runs = out / "runs/minilm-l6/mine"
    wait_for(lambda: (runs / "eight-0/entry.json").is_file() and (runs / "fewer-heads-0/log.txt").is_file(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in (runs / "eight-0").glob("entry.json")}
    done = subprocess.run(
        [*command, "--out", str(out), "--resume", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, kept, json.loads(done.stdout)


def test_finished_runs_are_kept(finished):
    _, kept, _ = finished
    assert kept
    for path, changed in kept.items():
        assert path.stat().st_mtime_ns == changed


def test_no_process_outlives_a_killed_study(finished):
    out, *_ = finished
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"bertpress.study.worker {out}" not in found


def test_everything_is_written(finished):
    out, _, study = finished
    assert json.loads((out / "study.json").read_text(encoding="utf-8")) == study
    for name in FILES:
        assert (out / name).stat().st_size > 100
    assert study["failures"] == []
    assert [entry["label"] for entry in study["entries"]] == ["eight", "fewer heads", "students of several teachers"]
    for entry in study["entries"]:
        place = out / entry["folder"]
        assert (place / "report.html").is_file()
        assert sorted(path.name for path in (place / "run").iterdir() if path.is_dir()) == ["model"]
        assert {"drop", "speedup", "peak_memory_bytes", "breakdown"} <= entry["artifact"].keys()
        assert len(entry["artifact"]["speedup_samples"]) == 6


def test_published_and_measured_rows_alternate(finished):
    _, _, study = finished
    shown = [(line["method"], line["origin"]) for line in study["table"]]
    assert shown == [
        ("BERT-base", "published"), ("minilm-l6", "measured"), ("MKD", "published"),
        ("students of several teachers", "measured"), ("eight", "measured"), ("fewer heads", "measured"),
    ]  # fmt: skip
    assert len(study["claims"]) >= 30
    assert {front["cost"] for front in study["fronts"]} == {"packed", "size", "latency"}
    size = next(front for front in study["fronts"] if front["cost"] == "size")
    assert not all(point["dominated"] for point in size["points"])


def test_a_finished_study_is_not_begun_again(finished, command):
    out, *_ = finished
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {out}: holds a run already; add --resume to go on with it, or choose another --out\n"


def test_a_teacher_that_is_given_is_taken_as_it_is(command, finished, tmp_path):
    """Its labels are in the order that it was trained with, wherever the study that made it has put them."""
    out, *_ = finished
    given = ["--set", f"models.0.teachers={{mine: {out}/teachers/minilm-l6/mine/run/model}}",
             "--set", "rows=[{label: eight, recipe: linear-ptq}]",
             "--set", f"timing.reference={out}/teachers/minilm-l6/mine/run/model"]  # fmt: skip
    done = subprocess.run(
        [*command[:4], *(word for word in command[4:] if "rows.0" not in word), "--out", str(tmp_path / "out"), *given],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = (
        json.loads((folder / "runs/minilm-l6/mine/eight-0/entry.json").read_text(encoding="utf-8"))
        for folder in (out, tmp_path / "out")
    )
    assert after["artifact"]["metric"] == before["artifact"]["metric"]
    assert after["baseline"]["metric"] == before["baseline"]["metric"]
    study = json.loads((tmp_path / "out/study.json").read_text(encoding="utf-8"))
    assert len(study["entries"][0]["artifact"]["reference"]["speedup_samples"]) == 6
    assert all(line["reference"] > 0 for line in study["table"] if line["origin"] == "measured")


def test_runs_of_another_study_are_taken_over(command, finished, tmp_path):
    """None is done again; where one is added, its teacher must be theirs."""
    out, _, found = finished
    study = deepcopy(found)
    known = [*command, "--known", str(out / "study.json"), "--json", "--out"]
    done = subprocess.run([*known, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs are known" in done.stderr
    again = json.loads(done.stdout)
    assert again["table"] == study["table"]
    assert again["claims"] == study["claims"]
    assert not (tmp_path / "out/teachers").exists()
    assert (tmp_path / "out" / again["entries"][0]["folder"] / "report.html").is_file()
    for entry in study["entries"]:
        entry["baseline"]["metric"]["value"] += 1.0
    other = tmp_path / "other.json"
    other.write_text(json.dumps(study), encoding="utf-8")
    words = ["--known", str(other), "--out", str(tmp_path / "more"), "--set", "seeds=[0, 1]"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "was compressed from another teacher for mine, which scores" in done.stderr


@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray (pip install 'bertpress[ray]')")
def test_two_workers_of_ray_make_the_same_weights(command, finished, tmp_path):
    """Each a process that Ray gives one processor."""
    out, *_ = finished
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--ray", "local"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    weights = [path.relative_to(out) for path in sorted(out.rglob("model.safetensors"))]
    assert len(weights) > 3
    for name in weights:
        assert hash_file(tmp_path / "out" / name) == hash_file(out / name), name


def test_failures_are_written_down_and_gone_round(command, finished, tmp_path):
    out, *_ = finished
    words = [
        "--set",
        "limits.memory_gib=0.05",
        "--set",
        f"models.0.teachers={{mine: {out}/teachers/minilm-l6/mine/run}}",
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no run came to its end; teacher of minilm-l6 for mine: held 0." in done.stderr
    failure = json.loads((tmp_path / "out/runs/minilm-l6/mine/eight-0/failure.json").read_text(encoding="utf-8"))
    assert failure["reason"] == "has no teacher"
    assert os.listdir(tmp_path / "out/runs/minilm-l6/mine")  # noqa: PTH208
