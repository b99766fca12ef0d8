"""``train`` and ``compress`` in two processes that a launcher starts: one artifact, whatever happens on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from bertpress import artifact
from bertpress.artifact.manifest import hash_file

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples/distil_in_processes.py"
SHORT = {"batch_size": 4, "epochs": 1.0, "max_steps": 8, "precision": "float32", "learning_rate": 1e-3}
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FIELDS = ["--task", "text-classification", "--text-columns", "text", "--label-column", "label", "--threads", "1"]


def recipe(*before, **more):
    short = {**SHORT, **more}
    train = {**short, "checkpoint_seconds": 0.0}
    return {
        "name": "mine", "export": ["openvino"], "fine_tune": short,
        "stages": [
            {"name": "learn", "use": [*before, {"distill/logits": {}}], "train": train},
            {"name": "quantize", "use": [{"quantize/int8": {}}]},
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def world(tiny_model, tiny_data, tmp_path_factory):
    """A model without dropout, whose draws are of each process, and what starts a compression of it."""
    place = tmp_path_factory.mktemp("processes")
    shutil.copytree(tiny_model, place / "model")
    config = json.loads((place / "model/config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (place / "model/config.json").write_text(json.dumps(config))

    def command(out, content, *more, launcher=LAUNCHER):
        file = place / f"{out.name}.yaml"
        file.write_text(yaml.safe_dump(content))
        words = ["compress", place / "model", "--recipe", file, "--data", tiny_data(), "--out", out, *FIELDS, *more]
        return [sys.executable, *launcher, "-m", "bertpress", *map(str, words)]

    return place, command


def run(command):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_compress_like_one(world):
    place, command = world
    done = run(command(place / "two", recipe(), "--json"))
    assert json.loads(done.stdout)["artifact"]["metric"]["name"] == "accuracy"  # one answer, of one process
    run(command(place / "one", recipe(accumulate=2), launcher=()))
    for stage in ("teacher", "stages/01-learn/model"):
        one, two = (artifact.load(place / name / stage).model.state_dict() for name in ("one", "two"))
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, atol=1e-3, rtol=0)
    assert (place / "two/model/openvino").is_dir()
    assert (place / "two/report.html").is_file()


def test_two_processes_that_are_killed_go_on(world):
    """What is measured, as the times that a cut goes by are, is measured by one of them."""
    place, command = world
    content = recipe({"prune/fisher": {"budget": "latency"}})
    run(command(place / "whole", content))
    out = place / "killed"
    process = subprocess.Popen(
        command(out, content), env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob("stages/01-learn/training/*.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(out.glob("stages/01-learn/latency-torch-*.json"))
    run(command(out, content, "--resume"))
    made = artifact.load(out / "model")
    assert made.blueprint.layers
    assert hash_file(out / "teacher/model.safetensors") == hash_file(place / "whole/teacher/model.safetensors")


def test_the_example_distils_in_two(world, tiny_data):
    place, command = world
    if not (place / "two/teacher").is_dir():
        run(command(place / "two", recipe()))
    words = [EXAMPLE, place / "model", place / "two/teacher", tiny_data(), place / "example"]
    done = run([sys.executable, *LAUNCHER, *map(str, words)])
    assert done.stdout.count("accuracy") >= 1
    assert artifact.load(place / "example/model").task.labels == ("bad", "good")


def test_a_study_says_that_it_is_spread_in_another_way(world):
    place, _ = world
    plan = place / "plan.yaml"
    plan.write_text("{name: s, models: [{name: m, path: nowhere}], tasks: [sst2], rows: [quick]}")
    done = subprocess.run(
        [sys.executable, "-m", "bertpress", "study", str(plan), "--out", str(place / "study")],
        env={**os.environ, "WORLD_SIZE": "2"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2, "error: study: WORLD_SIZE=2 must be 1; --ray spreads it over processes and machines\n",
    )  # fmt: skip
