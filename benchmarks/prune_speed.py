"""What structured pruning saves on a clock: cut BERT-bases against the dense one, on OpenVINO in 8-bit integers.

    python benchmarks/prune_speed.py [--threads 2] [--rounds 25]

Random weights in the shape of BERT-base are cut by the surgery that every structured method uses, quantized by
``quantize/int8`` and exported.  All run by turns; ratios are medians of paired ratios to the dense model.  The shapes
whose layers are all alike give a line of latency against multiply-accumulates; the last shape, whose layers all differ,
is held against that line.  Writes results/prune_speed.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import save_timings
from int8_speed import CALIBRATION, LENGTH, batches, by_us, interleaved

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import BertpressPreTrainedModel, build_model
from bertpress.encoder.surgery import keep_heads, keep_layers, keep_neurons
from bertpress.engines import load_engine
from bertpress.measure.environment import usable_cores
from bertpress.measure.statistics import Latency, paired_ratio

LAYERS, HEADS, FFN = 12, 12, 3072
HALF_BAR, SIX_BAR, LINE_BAR = 1.6, 1.9, 0.10
SETTINGS = ((128, 1), (128, 8), (32, 1), (32, 8))  # tokens, batch; the bars are those of the first
IRREGULAR = "layers that all differ"


def widths(heads: list[int], ffn: list[int]) -> Callable[[BertpressPreTrainedModel], BertpressPreTrainedModel]:
    """A cut to these numbers of heads and neurons, layer by layer."""

    def cut(model: BertpressPreTrainedModel) -> BertpressPreTrainedModel:
        model = keep_heads(model, {layer: range(count) for layer, count in enumerate(heads)})
        return keep_neurons(model, {(layer, 0): range(count) for layer, count in enumerate(ffn)})

    return cut


def even(share: float) -> Callable[[BertpressPreTrainedModel], BertpressPreTrainedModel]:
    """The same share of the heads and neurons of every layer."""
    return widths([round(share * HEADS)] * LAYERS, [round(share * FFN)] * LAYERS)


CUTS: dict[str, Callable[[BertpressPreTrainedModel], BertpressPreTrainedModel]] = {
    "dense": lambda model: model,
    "three quarters of heads and neurons": even(0.75),
    "half of heads and neurons": even(0.5),
    "a quarter of heads and neurons": even(0.25),
    "six of twelve layers": lambda model: keep_layers(model, range(6)),
    IRREGULAR: widths(
        [12, 3, 7, 1, 9, 5, 0, 11, 4, 8, 2, 6], [700, 3072, 1500, 64, 2000, 333, 1024, 0, 2500, 450, 1800, 96]
    ),
}


def made(cut: Callable[[BertpressPreTrainedModel], BertpressPreTrainedModel]) -> BertpressPreTrainedModel:
    """The cut model; the weights before the cut are always the same."""
    torch.manual_seed(0)
    shape = uniform(layers=LAYERS, hidden_size=768, heads=HEADS, ffn=FFN, head=HeadSpec(kind="sequence", labels=2))
    return cut(build_model(shape))


def off_the_line(rows: dict[str, dict[str, Any]]) -> float:
    """How far the irregular shape lies from the line through the others: measured over predicted, minus 1."""
    regular = [row for name, row in rows.items() if name != IRREGULAR]
    points = [(row["macs"], row["latency_ms"]["median"]) for row in regular]
    slope, start = np.polyfit(*np.array(points).T, 1)
    found = rows[IRREGULAR]
    return float(found["latency_ms"]["median"] / (start + slope * found["macs"]) - 1)


def main() -> int:
    """Cut, export, time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--results", type=Path, default=Path("results/prune_speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    calibration = batches(CALIBRATION, LENGTH, 1)
    settings = []
    with tempfile.TemporaryDirectory() as scratch:
        shapes, engines = {}, {}
        for i, (name, cut) in enumerate(CUTS.items()):
            model = made(cut)
            shapes[name] = model.blueprint
            engines[name] = load_engine("openvino", by_us(model, calibration, Path(scratch) / str(i)), options.threads)
            print(f"{name}: {model.blueprint.total_parameters / 1e6:.1f} M parameters", file=sys.stderr, flush=True)
        for tokens, batch in SETTINGS:
            inputs = {name: value.numpy() for name, value in batches(1, tokens, 2, batch)[0].items()}
            runs = {name: partial(engine.logits, inputs) for name, engine in engines.items()}
            times = interleaved(runs, options.rounds)
            rows = {
                name: {
                    "macs": batch * sum(shapes[name].macs(tokens).values()),
                    "latency_ms": Latency.of(samples).model_dump(),
                    "speedup": paired_ratio(times["dense"], samples).model_dump(),
                }
                for name, samples in times.items()
            }
            settings.append({"tokens": tokens, "batch": batch, "shapes": rows, "off_the_line": off_the_line(rows)})
            shown = ", ".join(f"{name} {row['speedup']['value']:.2f}" for name, row in rows.items())
            print(f"{tokens} tokens, batch {batch}: {shown}", file=sys.stderr, flush=True)
    first = settings[0]
    bars = [
        ("half of heads and neurons", HALF_BAR, first["shapes"]["half of heads and neurons"]["speedup"]["value"]),
        ("six of twelve layers", SIX_BAR, first["shapes"]["six of twelve layers"]["speedup"]["value"]),
    ]
    checked = [{"name": n, "required": r, "measured": m, "met": m >= r} for n, r, m in bars]
    off = first["off_the_line"]
    checked.append({"name": IRREGULAR, "required": LINE_BAR, "measured": off, "met": abs(off) <= LINE_BAR})
    for bar in checked:
        verdict = "met" if bar["met"] else "MISSED"
        print(f"{bar['name']}: {bar['measured']:.3f}, bar {bar['required']}: {verdict}", file=sys.stderr)
    content = {
        "settings": settings,
        "bars": checked,
    }
    save_timings(options.results, content, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
