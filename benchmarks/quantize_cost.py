"""What each packed form of the BERT-base shape takes: bytes on disk, seconds to decode, peak memory while it is made.

    python benchmarks/quantize_cost.py [--only NAME ...]

Each form is made in a process of its own from random weights of the BERT-base shape, with 64 random texts of 128
tokens where a method wants calibration.  Methods that train are attached and baked without a step: their file has the
same bytes.  ``planned_bytes`` is the closed form from the shapes of the blueprint, the storage plan, and how
many zeros and outliers there are, before anything is packed.
Writes results/quantize_cost.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from provenance import made_on
from torch import Tensor

from bertpress import tasks
from bertpress.artifact import packing
from bertpress.artifact.sizes import model_bytes
from bertpress.encoder.imports import load_pretrained
from bertpress.measure.size import BERT_BASE_BYTES
from bertpress.methods.base import Context, Model
from bertpress.methods.registry import find
from bertpress.methods.transform import bake

LABELS = ("negative", "positive")
TEXTS = 64
PEAK_BAR, DECODE_BAR, PLAN_BAR = 3e9, 2.0, 0.02
EMBEDDINGS_8 = {"embedding_bits": 8}
# form -> stage's methods, and the most that the file may take, in percent of float32
FORMS: dict[str, tuple[list[tuple[str, dict[str, Any]]], float | None]] = {
    "int8": ([("quantize/int8", {})], 26.0),
    "smoothed int8": ([("quantize/smooth", {}), ("quantize/int8", {})], 26.0),
    "Q8BERT": ([("quantize/qat", {})], 26.0),
    "linear, 4 bits in groups of 64": (
        [("quantize/uniform", {"bits": 4, "granularity": "group", "group": 64, **EMBEDDINGS_8})],
        None,
    ),
    "GPTQ, 4 bits": ([("quantize/gptq", {"bits": 4, **EMBEDDINGS_8})], None),
    "Q-BERT, 4 bits, embeddings 8": ([("quantize/qbert", {"bits": 4, "low_bits": None, **EMBEDDINGS_8})], 15.5),
    # a graph is as large for few power iterations as for many, and so is the file
    "Q-BERT, 2 and 4 bits, embeddings 8": (
        [("quantize/qbert", {"bits": 4, "low_bits": 2, "samples": 1, "sentences": 8, "iterations": 2, **EMBEDDINGS_8})],
        None,
    ),
    "GOBO, 3 bits, embeddings 4": ([("quantize/gobo", {"bits": 3, "embedding_bits": 4})], 10.5),
    "AdaptivFloat, 8 bits": ([("quantize/adaptivfloat", {"bits": 8, **EMBEDDINGS_8})], 25.2),
    "fixed point": ([("quantize/fixed_point", {})], None),
    # a step of the centroids takes as much memory as a hundred
    "Quant-Noise, product codes": ([("quantize/quant_noise", {"variant": "product", "tune_steps": 2})], None),
    "TernaryBERT": ([("quantize/ternary", {})], None),
    "BinaryBERT": (
        [
            ("student/transformer", {"layers": 1.0, "heads": 0.5, "ffn": 0.5}),
            ("quantize/ternary", {"latent": True}),
            ("quantize/binary", {}),
        ],
        4.5,
    ),
}


def texts(count: int) -> Sequence[dict[str, Tensor]]:
    """Random ids, 32 texts a batch, at most :data:`TEXTS`."""
    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(0, min(count, TEXTS), 32):
        ids = torch.randint(1000, 30522, (32, 128), generator=random)
        ones, zeros = torch.ones_like(ids), torch.zeros_like(ids)
        labels = torch.randint(0, 2, (32,), generator=random)
        made.append({"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros, "labels": labels})
    return made


def peak() -> int:
    """Bytes of the resident set at its largest so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def make(name: str) -> tuple[Model, float]:
    """The compressed model, and the seconds that it took."""
    rows = tasks.from_records([{"text": "a", "label": i} for i in (0, 1)], split="train")
    task = tasks.with_labels(tasks.resolve("text-classification"), rows)
    model: Model = load_pretrained("shape:bert-base", task.head()).model
    ctx = Context(task=task, tokenizer=None, seed=0, teacher=model)
    ctx.calibration = lambda examples, by_length: texts(examples)
    began = time.monotonic()
    for field, options in FORMS[name][0]:
        method = find(field)(**options)
        model = method.attach(model, ctx)
        bake(model)
        model = method.finish(model, ctx)
    return model, time.monotonic() - began


def measure(name: str) -> dict[str, Any]:
    """One form, in this process."""
    model, seconds = make(name)
    made_peak = peak()
    planned = sum(model_bytes(model).values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        packing.write(path, model.state_dict(), model.storage)
        size = path.stat().st_size
        torch.set_num_threads(1)
        began = time.monotonic()
        state, _ = packing.read(path)
        decode = time.monotonic() - began
        assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    bar = FORMS[name][1]
    return {
        "name": name,
        "methods": [{field: options} for field, options in FORMS[name][0]],
        "weight_bytes": size,
        "percent_of_bert_base": 100 * size / BERT_BASE_BYTES,
        "bar_percent": bar,
        "planned_bytes": planned,
        "file_over_plan": size / planned - 1,
        "decode_seconds_one_thread": decode,
        "make_seconds": seconds,
        "peak_memory_bytes": made_peak,
        "peak_memory_bytes_with_packing": peak(),
    }


def main() -> int:
    """All forms that are asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FORMS, metavar="NAME")
    parser.add_argument("--one", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=Path("results/quantize_cost.json"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    forms: dict[str, dict[str, Any]] = {}
    if options.results.is_file():
        forms = {form["name"]: form for form in json.loads(options.results.read_text(encoding="utf-8"))["forms"]}
    for name in options.only or FORMS:
        line = [sys.executable, __file__, "--one", name]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{name}: FAILED", file=sys.stderr)
            continue
        forms[name] = json.loads(done.stdout.splitlines()[-1])
        form = forms[name]
        print(
            f"{name}: {form['percent_of_bert_base']:.2f} % (bar {form['bar_percent']}), "
            f"{form['file_over_plan']:+.2%} over the plan, "
            f"decoded in {form['decode_seconds_one_thread']:.2f} s, made in {form['make_seconds']:.0f} s, "
            f"peak {form['peak_memory_bytes'] / 1e9:.2f} GB",
            file=sys.stderr,
            flush=True,
        )
        content = {
            "forms": [forms[key] for key in FORMS if key in forms],
            "bars": {"peak_memory_bytes": PEAK_BAR, "decode_seconds": DECODE_BAR, "file_over_plan": PLAN_BAR},
            **made_on(),
        }
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
