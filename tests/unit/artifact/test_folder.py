import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from bertpress.artifact import folder as folders
from bertpress.artifact.folder import machine_errors, refuse_pickles, staged, write_file
from bertpress.errors import ArtifactError, MachineError

DEAD = 2**22 + 1  # above the largest process id that Linux gives


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(folder, text="new"):
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text(text)


def test_a_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "model"
    with staged(target) as partial:
        fill(partial)
        assert not target.exists()
        assert partial.parent == target.parent
    assert (target / "sub" / "file").read_text() == "new"
    assert names(target.parent) == ["model"]


def fail(target, error, **options):
    with staged(target, **options) as partial:
        fill(partial)
        raise error


def test_nothing_is_left_when_the_block_fails(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "model", ZeroDivisionError())
    assert names(tmp_path) == []


def test_an_old_folder_stays_when_the_block_fails(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    fill(target, "old")
    with pytest.raises(KeyboardInterrupt):
        fail(target, KeyboardInterrupt(), overwrite=True)
    assert (target / "sub" / "file").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_taken_place_is_refused_unless_told(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    with staged(target) as partial:  # an empty folder is no loss
        fill(partial, "old")
    with pytest.raises(ArtifactError, match="exists and is not empty"), staged(target):
        pass
    with staged(target, overwrite=True) as partial:
        fill(partial)
    assert (target / "sub" / "file").read_text() == "new"
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="exists and is no folder"), staged(tmp_path / "file", overwrite=True):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from bertpress.artifact import folder as folders

step, target = int(sys.argv[1]), Path(sys.argv[2])
count = 0

def stop(real):
    def counted(*args, **kwargs):
        global count
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return real(*args, **kwargs)
    return counted

Path.mkdir, Path.rename = stop(Path.mkdir), stop(Path.rename)
os.fsync, folders.shutil.rmtree = stop(os.fsync), stop(folders.shutil.rmtree)
with folders.staged(target, overwrite=True) as partial:
    (partial / "one").write_text("new")
    (partial / "two").write_text("new")
print("whole")
"""


def test_killed_at_any_step_the_folder_is_old_or_new_and_the_next_writer_puts_it_back(tmp_path):
    """SIGKILL before every call that makes, moves, syncs or removes something."""
    script = tmp_path / "script.py"
    # the package root imports torch; a stub in its place keeps ten processes quick
    (tmp_path / "bertpress" / "artifact").mkdir(parents=True)
    source = Path(folders.__file__).parent
    for name in ("bertpress/__init__.py", "bertpress/artifact/__init__.py"):
        (tmp_path / name).touch()
    shutil.copy(source / "folder.py", tmp_path / "bertpress" / "artifact" / "folder.py")
    shutil.copy(source.parent / "errors.py", tmp_path / "bertpress" / "errors.py")
    script.write_text(KILLED)
    steps = 0
    while True:
        place = tmp_path / f"run{steps}"
        target = place / "model"
        target.mkdir(parents=True)
        for name in ("one", "two"):
            (target / name).write_text("old")
        done = subprocess.run(
            [sys.executable, "-S", "-c", _with_site(script), str(steps), str(target)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            check=False,
        )
        if target.exists():
            texts = {(target / name).read_text() for name in ("one", "two")}
            assert len(texts) == 1, f"mixed after step {steps}"
            assert len(names(target)) == 2
        else:  # the one instant between two renames
            assert any(left.name.endswith(".old") for left in place.iterdir())
        folders._sweep(target)
        assert {(target / name).read_text() for name in ("one", "two")} in ({"old"}, {"new"})
        assert names(place) == ["model"]
        if done.returncode == 0:
            assert done.stdout == "whole\n"
            break
        assert done.returncode == -9, done.stderr
        steps += 1
    assert steps >= 8


def _with_site(script):
    site = str(Path(torch.__file__).parents[1])
    return f"import sys; sys.path.append({site!r}); exec(open({str(script)!r}).read())"


def test_others_at_work_are_left_alone(tmp_path):
    target = tmp_path / "model"
    running, dead = tmp_path / ".model.1.partial", tmp_path / f".model.{DEAD}.partial"
    unrelated = tmp_path / ".model.backup"
    for path in (running, dead, unrelated):
        path.mkdir()
    with staged(target) as partial:
        fill(partial)
    assert names(tmp_path) == [".model.1.partial", ".model.backup", "model"]


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage(0, 0, 3_000_000))
    message = r"3\.0 MB free on the disk, need 11\.0 MB"
    with pytest.raises(MachineError, match=message), staged(tmp_path / "model", needed_bytes=10_000_000):
        pytest.fail("must not start")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the disk"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "no space left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied"), r"not allowed to write \(Permission denied\)"),
    ],
)
def test_a_full_disk_in_the_middle_is_one_line_and_leaves_nothing(tmp_path, error, message):
    with pytest.raises(MachineError, match=rf"model: {message}"):
        fail(tmp_path / "model", error)
    assert names(tmp_path) == []


def test_other_faults_pass(tmp_path):
    for error in (OSError(errno.EIO, "Input/output error"), SafetensorError("else")):
        with pytest.raises(type(error)), machine_errors(tmp_path):
            raise error


def test_a_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_file(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(MachineError, match="no space left"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "optimizer.pth", "x.pkl", "last.ckpt"])
def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path, name):
    torch.save({"w": torch.arange(3.0)}, tmp_path / name)
    with pytest.raises(ArtifactError, match=r"a pickle, .*is refused; convert it once") as caught:
        refuse_pickles(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / name) in message
    code = message.partition('python -c "')[2].removesuffix('"')
    exec(code)
    assert load_file(tmp_path / "model.safetensors")["w"].tolist() == [0, 1, 2]


def test_weights_of_a_runtime_are_no_pickles(tmp_path):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "model.bin").write_bytes(b"\x80\x02")
    refuse_pickles(tmp_path)
