"""The inputs of benchmarks/fuzz.py, chosen by coverage: what reached new lines of bertpress is changed further.

    pip install atheris
    python benchmarks/fuzz_guided.py [--inputs 20000] [--only header payload recipe manifest]

Atheris chooses the bytes that Hypothesis reads its choices from, so that inputs stay damaged files.  What counts as a
failure is what counts there.  Each target has a process of its own, as the fuzzer ends its process; figures go into
results/reliability.json under "fuzz_guided".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["bertpress"]):
    import fuzz

import torch
from hypothesis import HealthCheck, given, settings
from reliability import recorded, save, told

DEFAULT = ("recipe", "study", "header", "payload", "manifest", "config", "jsonl")


def explore(name: str, inputs: int, seed: int, place: Path) -> None:
    """Feed one target; writes what it found to a file, and ends the process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    root = place.parent.resolve()  # which its starter clears away
    strategy, run = fuzz.Targets(root).all()[name]
    watch = fuzz.Watch(root)
    fuzz.limit_memory()
    found: dict[str, Any] = {"tried": 0, "inputs": 0, "read": 0, "refused": 0, "failures": []}
    began = time.monotonic()

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def feed(content: bytes) -> None:
        fuzz.judge(content, run, watch, found)

    def one(choices: bytes) -> None:
        found["tried"] += 1
        feed.hypothesis.fuzz_one_input(choices)  # too short for an input: counted as tried alone
        if found["inputs"] == inputs:
            place.write_text(json.dumps({**found, "seconds": time.monotonic() - began}), encoding="utf-8")
            os._exit(0)

    words = [
        sys.argv[0],
        f"-seed={seed}",
        "-timeout=0",
        "-rss_limit_mb=0",
        "-max_len=4096",
        "-len_control=0",
        "-verbosity=0",
    ]
    atheris.Setup(words, one)
    atheris.Fuzz()


def main() -> int:
    """Explore each target in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="of all targets together")
    parser.add_argument("--only", nargs="*", default=list(DEFAULT), help="names of targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        explore(options.only[0], options.inputs, options.seed, options.into)
    targets = recorded("fuzz_guided").get("targets", {})
    each = -(-options.inputs // len(options.only))
    for name in options.only:
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / "found.json"
            words = ("--inputs", str(each), "--only", name, "--seed", str(options.seed), "--into", str(place))
            done = subprocess.run([sys.executable, __file__, *words], check=False, capture_output=True, text=True)
            if not place.is_file():
                raise SystemExit(f"{name}: the fuzzer ended with status {done.returncode}: {done.stderr[-2000:]}")
            targets[name] = json.loads(place.read_text(encoding="utf-8"))
        told(f"{name}: {each} inputs, {len(targets[name]['failures'])} failures in {targets[name]['seconds']:.0f} s")
        save("fuzz_guided", fuzz.summary(targets))
    done = fuzz.summary(targets)
    print(json.dumps({key: done[key] for key in ("inputs", "failures")}))
    return 1 if done["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
