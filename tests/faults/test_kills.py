"""SIGKILL at each write of a whole command: no half artifact loads, no good one is harmed, a repeat ends well."""

import json
import os
import subprocess
import sys

import pytest

from bertpress import artifact
from bertpress.artifact.manifest import hash_file

pytestmark = pytest.mark.slow

FAST = ["--set", "stages.0.train.max_steps=3", "--set", "fine_tune.max_steps=3", "--set", "export=[]"]
KILLING = """
import os, signal, sys
from pathlib import Path
from bertpress import cli, terminal

left = int(sys.argv[1])

def counted(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

Path.rename, Path.replace, os.fsync = counted(Path.rename), counted(Path.replace), counted(os.fsync)
status = terminal.run(cli.app, sys.argv[2:])
sys.stderr.write(f"\\nleft {left}\\n")
sys.exit(status)
"""


def killed_after(writes, *words):
    """Run a command that dies before write number ``writes``; the process."""
    line = [sys.executable, "-c", KILLING, str(writes), *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})


def sound(folder):
    """Every artifact below a folder is whole."""
    for place in folder.rglob("bertpress.json"):
        if not any(part.startswith(".") for part in place.relative_to(folder).parts):
            artifact.load(place.parent)


@pytest.fixture(scope="module")
def words(tiny_model, tiny_data):
    return ["compress", tiny_model, "--task", "text-classification", "--data", tiny_data(), "--threads", 1, *FAST]


def test_compress_killed_before_any_write_goes_on_to_the_same_bytes(words, tmp_path):
    whole = killed_after(10**9, *words, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    writes = 10**9 - int(whole.stderr.split()[-1])
    expected = hash_file(tmp_path / "whole/model/model.safetensors")
    for at in (0, 1, writes // 3, 2 * writes // 3, writes - 1):
        out = tmp_path / f"killed-{at}"
        assert killed_after(at, *words, "--out", out).returncode == -9
        sound(out)
        again = killed_after(10**9, *words, "--out", out, "--resume")
        assert again.returncode == 0, again.stderr
        sound(out)
        assert hash_file(out / "model/model.safetensors") == expected
        assert not list(out.rglob("*.partial"))


def test_an_export_killed_before_any_write_leaves_the_artifact_whole(words, tmp_path):
    assert killed_after(10**9, *words, "--out", tmp_path / "run").returncode == 0
    place = tmp_path / "run/model"
    for at in range(40):
        done = killed_after(at, "export", place, "--to", "openvino")
        artifact.load(place)
        if done.returncode == 0:
            break
        assert done.returncode == -9
    assert artifact.load(place).exports == ("openvino",)
    assert json.loads((place / "bertpress.json").read_text())["files"]["openvino/model.xml"]
