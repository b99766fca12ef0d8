import getpass
import json
import socket
import subprocess

import pytest

from bertpress.measure import environment as module
from bertpress.measure.environment import cpu_features, environment, int8_is_fast


def test_it_is_json_and_tells_what_matters():
    found = json.loads(json.dumps(environment(threads=2, seed=7)))
    assert found["threads"] == 2
    assert found["seed"] == 7
    assert found["memory_bytes"] > 0
    assert found["cpu"]["usable_cores"] >= 1
    assert found["versions"]["torch"]
    assert found["int8"]["reason"]


def test_no_names_of_hosts_users_or_folders():
    text = json.dumps(environment())
    host = socket.gethostname()
    assert host not in text or len(host) < 4
    assert f'"{getpass.getuser()}"' not in text
    assert str(module.Path.home()) not in text


@pytest.mark.parametrize(
    ("flags", "fast", "word"),
    [
        ("fpu sse avx2 avx512f avx512_vnni", True, "VNNI"),
        ("fpu avx2 avx_vnni", True, "VNNI"),
        ("avx2 avx512_vnni amx_int8", True, "AMX"),
        ("fp asimd asimddp", True, "dot-product"),
        ("fp asimd asimddp i8mm", True, "I8MM"),
        ("fpu avx2", False, "AVX2 but no VNNI"),
        ("fpu sse2", False, "no int8 instructions"),
    ],
)
def test_int8_by_flags(flags, fast, word):
    check = int8_is_fast(cpu_features(frozenset(flags.split())))
    assert check.fast is fast
    assert word in check.reason


def test_cpuinfo_of_arm_and_of_x86(tmp_path, monkeypatch):
    text = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "Path", lambda *_: text)
    text.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert module.cpu_features(module.cpu_flags()) == {"dotprod"}
    text.write_text("model name\t: Some CPU\nflags\t\t: avx2 avx512f avx512_bf16\n")
    assert module.cpu_features(module.cpu_flags()) == {"avx2", "avx512", "avx512_bf16"}
    assert module.cpu_name() == "Some CPU"


def test_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "Path", lambda *_: tmp_path / "absent")
    monkeypatch.setattr(module.platform, "system", lambda: "Darwin")
    answers = {"hw.optional.arm.FEAT_DotProd": "1", "machdep.cpu.brand_string": "Apple M2"}
    monkeypatch.setattr(module, "_output", lambda *command: answers.get(command[-1]))
    assert module.cpu_features() == {"dotprod"}
    assert module.cpu_name() == "Apple M2"


def test_commit_is_marked_for_changes_but_not_for_results(tmp_path, monkeypatch):
    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=n@example.org")
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    code, result = tmp_path / "src/code.py", tmp_path / "results/speed.json"
    for path in (code, result):
        path.parent.mkdir()
        path.write_text("1")
    monkeypatch.setattr(module, "__file__", str(code))
    assert module.commit() is None
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = module.commit()
    assert len(clean) == 40
    result.write_text("2")
    assert module.commit() == clean
    code.write_text("2")
    assert module.commit() == f"{clean}+"
