"""What kept passages save on a clock, and what reading the two texts apart costs in answers.

    python benchmarks/deformer.py --data DIR [--threads 2] [--rounds 25]

The clock: random weights in the shape of BERT-base, 16 tokens of question and 304 of passage, nine of twelve layers
apart.  The full model reads all 320 tokens; with a kept passage the lower layers read the question alone, the passage's
states come from the disk at every answer.  By turns, on each engine; ratios are medians of paired ratios.

The answers: the pinned teacher of ``squad`` compressed by the recipe ``deformer`` in profile ``small``, F1 as in every
table, and again with kept passages in each of the three ways to store them.  Writes results/deformer.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from comparison import LIMITS, Row, arguments, compare, entries_of, place_of, save
from int8_speed import interleaved

from bertpress import artifact, tasks
from bertpress.artifact.predict import logits_of
from bertpress.encoder.blueprint import HeadSpec
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.surgery import rebuild
from bertpress.engines import load_engine, load_halves
from bertpress.engines.passages import Passages
from bertpress.engines.states import States, Store
from bertpress.measure.environment import usable_cores
from bertpress.measure.statistics import Latency, paired_ratio, rounded
from bertpress.methods.attention.deformer import separated
from bertpress.methods.base import Context
from bertpress.methods.quantize.int8 import Int8

QUESTION, PASSAGE, SHARE = 16, 304, 0.75
BAR, PARITY = 2.5, 1e-5
TASK = "squad"


def batch(seed: int, rows: int = 1) -> dict[str, torch.Tensor]:
    """A question and a passage of random ids."""
    ids = torch.randint(1000, 30000, (rows, QUESTION + PASSAGE), generator=torch.Generator().manual_seed(seed))
    segments = (torch.arange(QUESTION + PASSAGE) >= QUESTION).long().expand(rows, -1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": segments}


def models_of(shape: str) -> dict[str, tuple[BertpressPreTrainedModel, BertpressPreTrainedModel]]:
    """The full model and the one that reads apart, with the same random weights; in float and in 8-bit integers."""
    torch.manual_seed(0)
    full = load_pretrained(f"shape:{shape}", HeadSpec(kind="span")).model
    layers = int(SHARE * len(full.blueprint.layers))
    apart = rebuild(full, separated(full.blueprint, layers, "restart"), full.state_dict())
    calibration = [batch(seed, 4) for seed in range(100, 108)]
    ctx = Context(task=None, tokenizer=None, seed=0)  # type: ignore[arg-type]
    ctx.calibration = lambda examples, by_length: calibration
    return {"float32": (full, apart), "int8": (Int8().finish(full, ctx), Int8().finish(apart, ctx))}


def speed(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """One entry for each engine and precision."""
    entries = []
    for precision, (full, apart) in models_of(options.shape).items():
        folders = {"full": scratch / precision / "full", "apart": scratch / precision / "apart"}
        for model, folder in zip((full, apart), folders.values(), strict=True):
            made = artifact.save(model, None, None, folder, seed=0)
            made.export("openvino")
        files = {path.name: path.stat().st_size for path in (folders["apart"] / "openvino").iterdir()}
        for engine in ("openvino", "torch") if precision == "float32" else ("openvino",):
            kept = Passages(
                load_halves(engine, folders["apart"], options.threads), States(scratch / "states", precision + engine)
            )
            inputs = {name: tensor.numpy() for name, tensor in batch(1).items()}
            whole = {which: load_engine(engine, folder, options.threads) for which, folder in folders.items()}
            difference = float(np.abs(kept.logits(inputs) - whole["apart"].logits(inputs)).max())
            runs = {which: partial(each.logits, inputs) for which, each in {**whole, "kept": kept}.items()}
            times = interleaved(runs, options.rounds)
            ratio = paired_ratio(times["full"], times["kept"])
            entries.append(
                {
                    "engine": engine,
                    "precision": precision,
                    "latency_ms": {which: Latency.of(samples).model_dump() for which, samples in times.items()},
                    "speedup": ratio.model_dump(),
                    "difference": difference,
                    "macs": {
                        "full": sum(full.blueprint.macs(QUESTION + PASSAGE).values()),
                        "kept": sum(apart.blueprint.macs(QUESTION + PASSAGE, cached=PASSAGE).values()),
                    },
                    "files": files,
                }
            )
            print(f"{engine}, {precision}: {ratio.value:.2f} times, differs by {difference:.1e}", file=sys.stderr)
    return entries


def stored(options: argparse.Namespace) -> list[dict[str, Any]]:
    """F1 with kept passages, and their bytes, for each way to store them."""
    place = place_of(options, "deformer", TASK, options.seeds[0])
    made = artifact.load(place / "model")
    task = made.task
    assert task is not None
    rows = tasks.load(task, "validation", options.data, LIMITS[TASK][1])
    truth = tasks.references(task, rows)
    passages = dict.fromkeys(rows.column(task.text_columns[1]))
    entries = []
    for store in get_args(Store):
        reader = made.reader({text: text for text in passages}, place / "states", threads=options.threads, store=store)
        encoded, logits = logits_of(task, rows, made.tokenizer, reader.engine, 32, apart=True)
        found = tasks.score(task, tasks.predictions(task, encoded, logits), truth)
        states = reader.engine.states
        taken = sum(path.stat().st_size for path in states.folder.rglob("*.safetensors"))
        taken -= sum(entry["bytes"] for entry in entries)
        entries.append({"store": store, "metric": next(iter(found.values())).model_dump(mode="json"), "bytes": taken})
        print(f"{store}: F1 {entries[-1]['metric']['value']:.2f}, {taken / 1e6:.1f} MB", file=sys.stderr)
    return entries


def main() -> int:
    """Time, train, score."""
    parser = arguments(__doc__, (TASK,), "deformer")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--shape", default="bert-base")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        timed = speed(options, Path(scratch))
    first = timed[0]
    bars = [
        {
            "name": "times as fast",
            "required": BAR,
            "measured": (value := first["speedup"]["value"]),
            "met": value >= BAR,
        },
        {
            "name": "kept = whole, millionths",
            "required": PARITY * 1e6,
            "measured": (off := first["difference"] * 1e6),
            "met": off <= PARITY * 1e6,
        },
    ]
    content = {"speed": timed, "bars": bars, "threads": options.threads, "tokens": [QUESTION, PASSAGE]}
    save(options, rounded(content))
    status = compare(
        {"deformer": Row("deformer")}, options, lambda entries: save(options, rounded({**content, "entries": entries}))
    )
    if status == 0 and (place_of(options, "deformer", TASK, options.seeds[0]) / "model").is_dir():
        save(options, rounded({**content, "entries": entries_of(options), "kept": stored(options)}))
    return status


if __name__ == "__main__":
    sys.exit(main())
