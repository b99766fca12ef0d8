"""Kill ``bertpress compress`` with SIGKILL at random instants, resume, and compare with an undisturbed run.

    python benchmarks/resume.py --model DIR --data DIR [--task sst2] [--kills 10] [--train-limit 1500]

Writes results/resume.json: for each kill the instant, the SHA-256 of model.safetensors, and the seconds of work that
were done twice (time until the kill, plus time of the resumed run, minus time of the undisturbed one; the start of
Python and the loading of model and data count as work done twice).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provenance import made_on

from bertpress.artifact.manifest import hash_file


def command(options: argparse.Namespace, out: Path, *, resume: bool) -> list[str]:
    """The command line of one run."""
    line = [sys.executable, "-m", "bertpress", "compress", str(options.model), "--recipe", options.recipe]
    line += ["--task", options.task, "--data", str(options.data), "--seed", "0", "--out", str(out)]
    line += ["--train-limit", str(options.train_limit), "--validation-limit", "200"]
    line += ["--set", "stages.0.train.epochs=2", "--set", "fine_tune.epochs=1"]
    return [*line, "--resume"] if resume else line


def finish(line: list[str], log: Path) -> float:
    """Run to the end; seconds."""
    began = time.monotonic()
    with log.open("ab") as file:
        subprocess.run(line, stdout=file, stderr=file, check=True)
    return time.monotonic() - began


def kill_after(line: list[str], seconds: float, log: Path) -> bool:
    """Start, and kill at that instant; whether it was still running."""
    with log.open("ab") as file:
        process = subprocess.Popen(line, stdout=file, stderr=file, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
    return False


def main() -> int:
    """Kill and resume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--train-limit", type=int, default=1500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results/resume.json"))
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="bertpress-resume-") as scratch:
        log, whole = Path(scratch) / "log.txt", Path(scratch) / "whole"
        seconds = finish(command(options, whole, resume=False), log)
        expected = hash_file(whole / "model" / "model.safetensors").sha256
        print(f"undisturbed: {seconds:.0f} s, {expected[:12]}", file=sys.stderr, flush=True)
        kills: list[dict[str, Any]] = []
        result: dict[str, Any] = {}
        for number in range(options.kills):
            out, instant = Path(scratch) / f"killed-{number}", draw.uniform(0, seconds)
            killed = kill_after(command(options, out, resume=False), instant, log)
            again = finish(command(options, out, resume=True), log)
            found = hash_file(out / "model" / "model.safetensors").sha256
            twice = instant + again - seconds
            kills.append(
                {"instant_s": instant, "killed": killed, "resumed_s": again, "redone_s": twice, "sha256": found}
            )
            same = "same" if found == expected else "DIFFERENT"
            print(f"killed at {instant:.0f} s: {same}, redone {twice:.0f} s", file=sys.stderr, flush=True)
            shutil.rmtree(out)
            result = {
                "undisturbed_s": seconds,
                "sha256": expected,
                "kills": kills,
                "same_hash": sum(kill["sha256"] == expected for kill in kills),
                "most_redone_s": max(kill["redone_s"] for kill in kills),
                **made_on(seed=0),
            }
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("same_hash", "most_redone_s")}))
    return 0 if result["same_hash"] == len(kills) else 1


if __name__ == "__main__":
    sys.exit(main())
