"""Load and reproducibility: a long stream of texts, many runs in one process, every recipe twice.

    python benchmarks/reliability.py stream [--texts 1000000]
    python benchmarks/reliability.py drift [--runs 200]
    python benchmarks/reliability.py recipes [--only NAME ...]

``stream`` feeds texts to ``bertpress predict`` and samples the resident memory of that process.  ``drift`` compresses
one tiny model again and again in one process and samples its memory after each run.  ``recipes`` runs each shipped
recipe twice with the same seed, each time in a process of its own, and compares the bytes of model.safetensors; it
keeps what it has found, each with its commit, and goes on there; a second process may do others meanwhile.
benchmarks/faults.py and benchmarks/fuzz.py write into the same file, results/reliability.json, a part each.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from provenance import made_on
from tiny_world import rows_of, write_model, write_rows
from transformers import BertForMaskedLM

from bertpress.artifact.folder import alone, write_file
from bertpress.artifact.manifest import hash_file
from bertpress.measure.environment import commit

RESULTS = Path("results/reliability.json")
TINY = {"epochs": 1.0, "max_examples": 16, "max_steps": 4, "batch_size": 8, "precision": "float32"}
QUIET = {
    **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
MASKED_LM = ("distilbert", "gobo-distilbert", "lightpaff")
"""Recipes whose teacher guesses words."""
PAIRS = {"deformer": ("text-pair-classification", "--text-columns", "sentence1,sentence2", "--label-column", "label")}
FEWER = {"low-resource": ("--set", "labels=32")}
"""Recipes that ask for more rows than there are."""
FIELDS = ("text-classification", "--text-columns", "text", "--label-column", "label")


def recorded(part: str) -> dict[str, Any]:
    """What an earlier call found of a part; empty when it begins."""
    return dict(_parts().get(part, {}))


def _parts() -> dict[str, Any]:
    """All parts so far."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def save(part: str, figures: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replace one part of results/reliability.json; other processes may be writing there, too.

    Args:
        part: its name.
        figures: the new ones, or what makes them of the old ones.
    """
    about = made_on(seed=0)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with alone(RESULTS.parent, waits=True):
        found = _parts()
        made = figures(found.get(part, {})) if callable(figures) else figures
        write_file(RESULTS, json.dumps({**found, part: {**made, **about}}, indent=1) + "\n")


def told(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


def bertpress(*words: str | Path) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "bertpress", *map(str, words)]


def memory_of(process: psutil.Process, samples: list[dict[str, float]], done: threading.Event) -> None:
    """Sample the resident memory of a process four times a second."""
    began = time.monotonic()
    while not done.wait(0.25):
        try:
            samples.append({"s": time.monotonic() - began, "bytes": float(process.memory_info().rss)})
        except psutil.NoSuchProcess:
            return


def texts(count: int) -> Iterator[bytes]:
    """Short texts, a line each."""
    lines = [f"{row['text']}\n".encode() for row in rows_of("text-classification", 1000, 0)]
    for number in range(count):
        yield lines[number % len(lines)]


def stream(options: argparse.Namespace) -> int:
    """Feed a long stream to ``bertpress predict``; peak memory after a tenth of it, and after all."""
    with tempfile.TemporaryDirectory(prefix="bertpress-stream-") as scratch:
        root = Path(scratch)
        model, data = write_model(root / "model"), write_rows(root / "data")
        made = bertpress("train", model, "--task", *FIELDS, "--data", data, "--out", root / "run", "--set", "epochs=1")
        subprocess.run(made, env=QUIET, check=True, capture_output=True)
        samples: list[dict[str, float]] = []
        done, answers, began = threading.Event(), 0, time.monotonic()
        with subprocess.Popen(
            bertpress("predict", root / "run/model", "--batch", "256", "--threads", "1"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=QUIET,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            pipe = process.stdin

            def feed() -> None:
                with pipe:
                    pipe.writelines(texts(options.texts))

            workers = [
                threading.Thread(target=feed),
                threading.Thread(target=memory_of, args=(psutil.Process(process.pid), samples, done)),
            ]
            for worker in workers:
                worker.start()
            early = 0.0
            for _ in process.stdout:
                answers += 1
                if answers == options.texts // 10:
                    early = max(each["bytes"] for each in samples)
            done.set()
            for worker in workers:
                worker.join()
        peak = max(each["bytes"] for each in samples)
        figures = {
            "texts": options.texts, "answers": answers, "seconds": time.monotonic() - began,
            "peak_bytes_after_a_tenth": early, "peak_bytes": peak, "growth_bytes": peak - early,
            "samples": samples[:: max(1, len(samples) // 500)],
        }  # fmt: skip
        save("stream", figures)
    print(json.dumps({key: figures[key] for key in ("texts", "answers", "peak_bytes", "growth_bytes")}))
    return 0 if answers == options.texts and process.returncode == 0 else 1


def drift(options: argparse.Namespace) -> int:
    """Compress again and again in this process; memory after each run."""
    import torch

    from bertpress import api

    torch.set_num_threads(1)
    short = [f"{place}.{key}={value}" for place in ("stages.0.train", "fine_tune") for key, value in TINY.items()]
    samples: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bertpress-drift-") as scratch:
        root = Path(scratch)
        model, data = write_model(root / "model"), write_rows(root / "data")
        columns = {"text_columns": ("text",), "label_column": "label"}
        for number in range(options.runs):
            made = api.compress(
                model, task=FIELDS[0], data=data, recipe="quick", out=root / str(number), threads=1,
                overrides=[*short, "export=[]"], **columns,
            )  # fmt: skip
            list(made.predict(["the film was good"], threads=1))
            del made
            gc.collect()
            samples.append(float(psutil.Process().memory_info().rss))
            told(f"run {number + 1}: {samples[-1] / 1e6:.0f} MB")
    warm = min(10, len(samples) - 1)
    figures = {
        "runs": len(samples), "bytes_after_ten_runs": samples[warm], "bytes_at_the_end": samples[-1],
        "drift_bytes_per_run": (samples[-1] - samples[warm]) / max(1, len(samples) - 1 - warm), "samples": samples,
    }  # fmt: skip
    save("drift", figures)
    print(json.dumps({key: figures[key] for key in ("runs", "drift_bytes_per_run")}))
    return 0


def shortened(name: str) -> list[str]:
    """What makes every stage of a recipe short."""
    from bertpress.recipe import Recipe

    found = [f"fine_tune.{key}={value}" for key, value in TINY.items()]
    for number, stage in enumerate(Recipe.load(name).stages):
        found += [f"stages.{number}.repeat=1", f"stages.{number}.until=null"]
        if stage.train is not None:
            found += [f"stages.{number}.train.{key}={value}" for key, value in TINY.items()]
    return [word for item in [*found, "export=[]"] for word in ("--set", item)]


def twice(name: str, root: Path) -> dict[str, Any]:
    """Both hashes of one recipe, or why it cannot run on the tiny model."""
    digests = []
    model, fields = root / ("guessing" if name in MASKED_LM else "model"), PAIRS.get(name, FIELDS)
    for turn in ("one", "two"):
        out = root / f"{name}-{turn}"
        line = bertpress(
            "compress", model, "--recipe", name, "--task", *fields, "--data", root / fields[0], "--seed", "7"
        )
        line += [*shortened(name), *FEWER.get(name, ()), "--threads", "1", "--out", str(out)]
        done = subprocess.run(line, env=QUIET, check=False, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [""]
            return {"ran": False, "said": said[0], "status": done.returncode, "commit": commit()}
        digests.append(hash_file(out / "model/model.safetensors").sha256)
    return {"ran": True, "same": digests[0] == digests[1], "sha256": digests, "commit": commit()}


def counted(found: dict[str, Any]) -> dict[str, Any]:
    """Totals of recipes, and each of them."""
    ran = [each for each in found.values() if each["ran"]]
    return {"tried": len(found), "ran": len(ran), "same": sum(each["same"] for each in ran), "recipes": found}


def joined(new: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What is known of recipes, and what is new."""
    return counted({**known.get("recipes", {}), **new})


def recipes(options: argparse.Namespace) -> int:
    """Every recipe twice; what earlier calls found is kept, and what another process finds meanwhile."""
    from bertpress.recipe import shipped

    if options.fresh:
        save("recipes", counted({}))
    with tempfile.TemporaryDirectory(prefix="bertpress-recipes-") as scratch:
        root = Path(scratch)
        write_model(root / "model")
        write_model(root / "guessing", BertForMaskedLM)
        for kind, *_ in (FIELDS, *PAIRS.values()):
            write_rows(root / kind, kind)
        for name in options.only or shipped():
            if recorded("recipes").get("recipes", {}).get(name, {}).get("ran"):
                continue
            one = twice(name, root)
            told(f"{name}: {one}")
            save("recipes", partial(joined, {name: one}))
    done = counted(recorded("recipes").get("recipes", {}))
    print(json.dumps({key: done[key] for key in ("tried", "ran", "same")}))
    return 0 if done["same"] == done["ran"] else 1


def main() -> int:
    """Do one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("stream")
    part.add_argument("--texts", type=int, default=1_000_000)
    part.set_defaults(do=stream)
    part = parts.add_parser("drift")
    part.add_argument("--runs", type=int, default=200)
    part.set_defaults(do=drift)
    part = parts.add_parser("recipes")
    part.add_argument("--only", nargs="*", default=[])
    part.add_argument("--fresh", action="store_true", help="forget what was found before")
    part.set_defaults(do=recipes)
    options = parser.parse_args()
    return int(options.do(options))


if __name__ == "__main__":
    sys.exit(main())
