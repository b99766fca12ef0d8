"""Limits that really end a process and its children, and what is told of it."""

import os
import sys
import time

import psutil
import pytest

from bertpress.study.isolation import do_isolated, resident_bytes, watched
from bertpress.study.jobs import FAILURE, read
from bertpress.study.plan import Limits

isolation = sys.modules["bertpress.study.isolation"]  # bertpress.study itself is a function of the API
EATS = "import time; held = []\nwhile True: held.append(bytearray(2**24)); time.sleep(0.02)"
CHILD = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {code!r}]).pid, flush=True)\n"


def watch(code, log, **limits):
    began = time.monotonic()
    reason = watched([sys.executable, "-c", code], log, Limits(**limits), os.environ)
    return reason, time.monotonic() - began


def wait_for_the_end_of(number):
    deadline = time.monotonic() + 20
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_sleeps_is_ended(tmp_path):
    reason, seconds = watch("import time; time.sleep(300)", tmp_path / "log", minutes=0.02)
    assert reason == "took longer than minutes=0.02"
    assert seconds < 60


def test_a_run_that_eats_memory_is_ended_with_its_children(tmp_path):
    log = tmp_path / "log"
    code = CHILD.format(code=EATS) + "import time; time.sleep(300)"
    reason, _ = watch(code, log, minutes=2, memory_gib=0.2)
    assert reason.startswith("held 0.")
    assert reason.endswith("GiB of memory, more than memory_gib=0.2")
    wait_for_the_end_of(int(log.read_text()))


@pytest.mark.parametrize(
    ("code", "reason"),
    [("pass", None), ("raise SystemExit(3)", "ended with status 3"),
     ("import os; os.abort()", "was killed by signal 6")],
)  # fmt: skip
def test_how_a_run_ended_is_told(tmp_path, code, reason):
    assert watch(code, tmp_path / "log")[0] == reason


def test_children_that_are_left_behind_are_ended(tmp_path):
    log = tmp_path / "log"
    assert watch(CHILD.format(code="import time; time.sleep(300)"), log)[0] is None
    wait_for_the_end_of(int(log.read_text()))


def test_a_process_that_is_gone_holds_nothing():
    assert resident_bytes(os.getpid()) > 10**7
    assert resident_bytes(2**22 + 1) == 0


def test_a_failure_is_written_with_the_last_line(tmp_path, monkeypatch):
    (tmp_path / "log.txt").write_text("of an earlier attempt\n")
    code = "import sys; print('loading'); print('DataError: no rows', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(isolation, "command_for", lambda place: [sys.executable, "-c", code])
    found = do_isolated(str(tmp_path), {"minutes": 1}, 1)
    assert (found["reason"], found["said"]) == ("ended with status 2", "DataError: no rows")
    assert read(tmp_path, FAILURE) == found
    monkeypatch.setattr(isolation, "command_for", lambda place: [sys.executable, "-c", "pass"])
    assert do_isolated(str(tmp_path), {"minutes": 1}, 1) is None
    assert read(tmp_path, FAILURE) is None
