"""Crashes and broken machines: SIGKILL at random instants, full disks, two processes at one place.

    python benchmarks/faults.py [--kills 200] [--only train compress cache export study search]

Everything runs on a tiny model.  Each command is first run undisturbed; then it is started again and again, killed
with its children at an instant drawn from its duration, looked at (every artifact that lies there must load, hashes
and all), and repeated, with ``--resume`` where it has that.  A kill is survived if the repeat ends with status 0 and
the bytes of every weight file are those of the undisturbed run.  ``search`` trains nothing there and goes by size, so
that no clock has a say in what comes out.

Then faults are injected: a disk on which no file may grow beyond some size, a disk that is full and one that must not
be written (where such may be mounted), a folder that must not be written (where the user is not root), a second
process at the same place, and a clock that jumps by up to a year, forth and back, whenever it is asked.

Kills that were tried are kept in results/reliability.json, each with its commit, so that a run goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from reliability import FIELDS, QUIET, bertpress, recorded, save, told
from tiny_world import write_model, write_rows

from bertpress import artifact
from bertpress.artifact.manifest import WEIGHTS, hash_file
from bertpress.errors import BertpressError
from bertpress.measure.environment import commit

SHORT = {"epochs": 1.0, "max_steps": 6, "batch_size": 8, "precision": "float32"}
CACHING = {
    "name": "caching", "export": [], "fine_tune": SHORT,
    "stages": [{"name": "learn", "use": [{"distill/logits": {}}], "train": {**SHORT, "cache_teacher": "all"}}],
}  # fmt: skip
JUMPING = """
import random, time
real, jump = time.time, random.Random(0)
time.time = lambda: real() + jump.uniform(-3e7, 3e7)
time.time_ns = lambda: int(time.time() * 1e9)
"""
"""What Python runs before anything else where it lies on its path as sitecustomize.py: its clock of the day jumps by up
to a year, forth and back, whenever it is asked.  Dates that are read in C stay as they are."""
SEARCHING = ("--target", "size", "--students", "0", "--max-drop", "50", "--budget", "1h")


class World:
    """A model, data, and the commands that are disturbed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model, self.data = write_model(root / "model"), write_rows(root / "data")
        (root / "caching.yaml").write_text(yaml.safe_dump(CACHING), encoding="utf-8")
        study = {
            "name": "s", "models": [{"name": "tiny", "path": str(self.model)}],
            "tasks": [{"name": "tone", "task": FIELDS[0], "data": str(self.data)}],
            "rows": [{"recipe": "quick", "set": {f"stages.0.train.{key}": value for key, value in SHORT.items()}}],
            "teacher": SHORT, "threads": 1, "timing": {"engines": ["torch"], "rounds": 1},
        }  # fmt: skip
        (root / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")

    def commands(self) -> dict[str, Callable[[Path, bool], list[str]]]:
        """From a folder and whether to go on, to a command line."""
        given = ("--task", *FIELDS, "--data", self.data, "--seed", "0")
        short = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
        quick = [
            word for item in short[1::2] for word in ("--set", f"stages.0.train.{item}", "--set", f"fine_tune.{item}")
        ]

        def line(words: Sequence[str | Path], out: Path, again: bool) -> list[str]:
            return bertpress(*words, "--out", out, *(["--resume"] if again else []))

        return {
            "train": partial(line, ("train", self.model, *given, *short)),
            "compress": partial(line, ("compress", self.model, *given, *quick, "--set", "export=[]", "--threads", "1")),
            "cache": partial(line, ("compress", self.model, *given, "--recipe", self.root / "caching.yaml")),
            "export": self._export,
            "study": partial(line, ("study", self.root / "study.yaml")),
            "search": partial(line, ("search", self.model, *given, *SEARCHING, "--threads", "1")),
        }

    def _export(self, out: Path, again: bool) -> list[str]:
        if not out.exists():
            shutil.copytree(self.root / "whole-compress/model", out)
        return bertpress("export", out, "--to", "openvino")


def weights(folder: Path) -> dict[str, str]:
    """The hash of each weight file of a finished command."""
    return {
        str(path.relative_to(folder)): hash_file(path).sha256
        for path in sorted(folder.rglob(WEIGHTS))
        if path.parent.name in ("model", "teacher") or path.parent == folder
    }


def unsound(folder: Path) -> str:
    """What is wrong with the artifacts that lie there; empty where nothing is."""
    for place in sorted(folder.rglob("bertpress.json")):
        if any(part.startswith(".") for part in place.relative_to(folder).parts):
            continue  # half written, under a name that nothing reads
        try:
            artifact.load(place.parent)
        except BertpressError as error:
            return str(error)
    return ""


def finish(line: list[str], env: Mapping[str, str] = QUIET, **options: Any) -> tuple[int, str, float]:
    """Run to the end: status, the last line that was said, seconds."""
    began = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False, **options)
    said = [each for each in done.stderr.splitlines() if each.strip()]
    return done.returncode, said[-1] if said else "", time.monotonic() - began


def killed_after(line: list[str], seconds: float) -> bool:
    """Start, and kill the process and its children at that instant; whether it was still running."""
    with subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUIET, start_new_session=True
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return True
    return False


def disturb(
    name: str, number: int, command: Callable[[Path, bool], list[str]], world: World, whole: dict[str, Any]
) -> dict[str, Any]:
    """One kill, and what became of it."""
    out = world.root / f"{name}-{number}"
    instant = random.Random(f"{name} {number}").uniform(0, whole["seconds"])
    killed = killed_after(command(out, False), instant)
    wrong = unsound(out)
    begun = (out / "run.json").is_file()
    status, said, seconds = finish(command(out, begun))
    wrong = wrong or unsound(out) or ("" if status == 0 else said)
    same = weights(out) == whole["weights"]
    shutil.rmtree(out, ignore_errors=True)
    return {
        "command": name, "number": number, "instant_s": instant, "killed": killed, "repeated_s": seconds,
        "wrong": wrong or ("" if same else "other bytes"), "survived": same and not wrong, "commit": commit(),
    }  # fmt: skip


def limited(size: int) -> None:
    """In a child: no file may become larger; what writes one is told, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[Path | None]:
    """A disk in memory, where one may be mounted."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=False, capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def inject(world: World, whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Faults of the machine, each once or at several sizes."""
    command, found = world.commands()["compress"], list[dict[str, Any]]()

    def note(fault: str, out: Path, first: tuple[int, str, float], *, refuses: bool = True) -> None:
        expected = first[0] == 2 and first[1].startswith("error: ") if refuses else first[0] == 0
        wrong = unsound(out)
        status, said, _ = finish(command(out, (out / "run.json").is_file()))
        good = status == 0 and weights(out) == whole["weights"]
        found.append({
            "fault": fault, "status": first[0], "said": first[1], "artifacts": wrong or "whole",
            "repeat": "same bytes" if good else said, "survived": expected and not wrong and good,
        })  # fmt: skip
        told(f"{fault}: {'survived' if found[-1]['survived'] else found[-1]}")

    for size in (100, 5_000, 40_000, 100_000):
        out = world.root / f"limit-{size}"
        note(f"no file above {size} bytes", out, finish(command(out, False), preexec_fn=partial(limited, size)))
    with small_disk(world.root / "small", "size=300k") as small:
        if small is not None:
            first = finish(command(small / "run", False))
            kept = world.root / "kept"
            shutil.copytree(small / "run", kept)
            note("disk of 300 kB", kept, first)
    with small_disk(world.root / "closed", "ro") as closed:
        if closed is not None:
            note("disk that must not be written", world.root / "open", finish(command(closed / "run", False)))
    if os.geteuid() != 0:  # who may write anywhere
        folder = world.root / "folder"
        folder.mkdir(mode=0o555)
        first = finish(command(folder / "run", False))
        folder.chmod(0o755)
        note("folder that must not be written", folder / "run", first)
    out = world.root / "shared"
    with subprocess.Popen(command(out, False), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUIET) as one:
        while one.poll() is None and not (out / "teacher").exists():
            time.sleep(0.05)
        os.kill(one.pid, signal.SIGSTOP)
        first = finish(command(out, True))
        os.kill(one.pid, signal.SIGCONT)
    note("second process in one run folder", out, first)
    (world.root / "clock").mkdir()
    (world.root / "clock/sitecustomize.py").write_text(JUMPING, encoding="utf-8")
    paths = os.pathsep.join(filter(None, (str(world.root / "clock"), QUIET.get("PYTHONPATH"))))
    out = world.root / "jumped"
    note("clock that jumps", out, finish(command(out, False), env={**QUIET, "PYTHONPATH": paths}), refuses=False)
    return found


def main() -> int:
    """Kill, repeat, inject, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of all commands together")
    parser.add_argument("--only", nargs="*", default=[], help="names of commands")
    parser.add_argument("--fresh", action="store_true", help="forget what was found before")
    options = parser.parse_args()
    kills = [] if options.fresh else recorded("faults").get("kills", [])
    with tempfile.TemporaryDirectory(prefix="bertpress-faults-") as scratch:
        world = World(Path(scratch).resolve())
        commands, wholes = world.commands(), dict[str, dict[str, Any]]()
        chosen = options.only or list(commands)
        for name in dict.fromkeys(("compress", *chosen)):
            out = world.root / f"whole-{name}"
            status, said, seconds = finish(commands[name](out, False))
            if status:
                raise SystemExit(f"{name} fails undisturbed: {said}")
            wholes[name] = {"seconds": seconds, "weights": weights(out)}
            told(f"{name}, undisturbed: {seconds:.1f} s, {len(wholes[name]['weights'])} weight files")
        injected = inject(world, wholes["compress"])
        tried = {(kill["command"], kill["number"]) for kill in kills}
        for number in range(-(-options.kills // len(chosen))):
            for name in chosen:
                if (name, number) in tried:
                    continue
                kills.append(disturb(name, number, commands[name], world, wholes[name]))
                told(f"{name} {number}: {kills[-1]['wrong'] or 'survived'}")
                save("faults", summary(kills, injected))
        done = summary(kills, injected)
        save("faults", done)
    print(json.dumps({key: done[key] for key in ("kills_tried", "kills_survived", "injected", "injected_survived")}))
    return 0 if done["kills_survived"] == done["kills_tried"] and done["injected"] == done["injected_survived"] else 1


def summary(kills: list[dict[str, Any]], injected: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals, by command, and all samples.  A process that had ended before its instant does not count as a kill."""
    real = [kill for kill in kills if kill["killed"]]
    names = dict.fromkeys(kill["command"] for kill in real)
    rows = {name: [kill["survived"] for kill in real if kill["command"] == name] for name in names}
    return {
        "kills_tried": len(real),
        "kills_survived": sum(kill["survived"] for kill in real),
        "by_command": {name: {"tried": len(row), "survived": sum(row)} for name, row in rows.items()},
        "injected": len(injected),
        "injected_survived": sum(each["survived"] for each in injected),
        "faults": injected,
        "kills": kills,
    }


if __name__ == "__main__":
    sys.exit(main())
