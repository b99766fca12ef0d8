"""What lighter attention saves: time and memory of the attention sub-unit, and time of the whole model.

    python benchmarks/attention.py [--threads 2] [--rounds 15] [--tokens 128 512 2048]

Random weights in the shape of BERT-base with a longer position table, batch 1, in PyTorch.  The sub-unit is that of one
layer: projections, pattern, output map, residual and norm.  Full attention runs twice, without a fused kernel (scores
and maps are formed) and as it comes, fused; all run by turns, and ratios are medians of paired ratios.
Added memory is what a pass of the sub-unit adds to the resident set at its highest, each in a process of its own.
Writes results/attention.json and results/attention.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparison import markdown, save_timings
from int8_speed import interleaved
from torch import Tensor

from bertpress.encoder.attention import SelfAttention
from bertpress.encoder.blueprint import Blueprint, HeadSpec, uniform
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.model import BertpressPreTrainedModel, build_model
from bertpress.encoder.pattern_specs import AnyPattern, LinformerSpec, LocalSpec, LshSpec, SpanSpec, TopKSpec
from bertpress.encoder.slots import Tape
from bertpress.measure.environment import usable_cores
from bertpress.measure.memory import peak_resident_bytes, resident_bytes
from bertpress.measure.statistics import Latency, paired_ratio

POSITIONS, LAYERS, WIDTH, HEADS, FFN = 2048, 12, 768, 12, 3072
UNFUSED, FUSED = "full, not fused", "full, fused"
PATTERNS: dict[str, AnyPattern | None] = {
    UNFUSED: None,
    FUSED: None,
    "local, 64 either side": LocalSpec(kind="local", window=64),
    "Reformer, chunks of 64, 1 round": LshSpec(kind="lsh", chunk=64, buckets=64),
    "Reformer, chunks of 64, 4 rounds": LshSpec(kind="lsh", chunk=64, buckets=64, rounds=4),
    "Linformer, 128 keys": LinformerSpec(kind="linformer", size=128, length=POSITIONS),
    "spans up to 64, ramp 32": SpanSpec(kind="span", ramp=32, band=95),
    "top 8": TopKSpec(kind="top_k", k=8),
}
BARRED = ("local", "Reformer", "Linformer")
BAR, BAR_TOKENS = 1 / 3, 2048


def shape(pattern: AnyPattern | None, layers: int = LAYERS) -> Blueprint:
    """BERT-base with this pattern in all layers."""
    base = uniform(
        layers=layers, hidden_size=WIDTH, heads=HEADS, ffn=FFN, positions=POSITIONS, head=HeadSpec(kind="sequence")
    )
    layer = base.layers[0]
    attention = layer.attention.model_copy(update={"pattern": pattern})
    return base.with_layers((layer.model_copy(update={"attention": attention}),) * layers)


def made(name: str, layers: int = LAYERS) -> BertpressPreTrainedModel:
    """Random weights by the same seed; spans of all lengths up to 64."""
    torch.manual_seed(0)
    model = build_model(shape(PATTERNS[name], layers))
    for buffer, tensor in model.named_buffers():
        if buffer.endswith("pattern.span"):
            tensor.copy_(torch.linspace(0, 64, HEADS))
    return model


class Unfused(Tape):
    """Asks for maps, which a fused kernel never forms, and keeps none."""

    def __init__(self) -> None:
        super().__init__(frozenset({"attentions"}))

    def put(self, name: str, tensor: Tensor) -> None:
        """Let it go."""


def sub_unit(name: str, tokens: int, model: BertpressPreTrainedModel) -> Callable[[], Any]:
    """A pass of the first layer's attention."""
    layer = model.encoder.layers[0]
    assert isinstance(layer, EncoderLayer)
    unit: SelfAttention = layer.attention
    x = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    return partial(unit, x, x, x, None, Unfused() if name == UNFUSED else Tape())


def whole(name: str, tokens: int, model: BertpressPreTrainedModel) -> Callable[[], Any]:
    """A pass of the model."""
    ids = torch.randint(1000, 30_000, (1, tokens), generator=torch.Generator().manual_seed(1))
    return partial(model.encoder, ids, None, None, Unfused() if name == UNFUSED else Tape())


def added_bytes(name: str, tokens: int) -> int:
    """What a pass of the sub-unit adds to this process at its highest, after a short one has loaded the kernels."""
    model = made(name, layers=1)
    with torch.inference_mode():
        sub_unit(name, 16, model)()
        job = sub_unit(name, tokens, model)
        before = max(resident_bytes(), peak_resident_bytes())
        job()
    return peak_resident_bytes() - before


def in_a_process(name: str, tokens: int, threads: int) -> int:
    """The same, measured in a fresh process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", name, "--tokens", str(tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(json.loads(done.stdout))


def timed(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Times by turns, and as shares of both full ones' times."""
    with torch.inference_mode():
        times = interleaved(jobs, rounds)
    return {
        name: {
            "latency_ms": Latency.of(samples).model_dump(),
            "of_unfused": paired_ratio(samples, times[UNFUSED]).model_dump(),
            "of_fused": paired_ratio(samples, times[FUSED]).model_dump(),
        }
        for name, samples in times.items()
    }


def table(settings: list[dict[str, Any]]) -> str:
    """Rows of patterns, for each length."""
    head = ["tokens", "attention", "sub-unit ms", "of unfused", "of fused", "added MB", "of unfused", "model ms",
            "of unfused", "of fused"]  # fmt: skip
    lines = []
    for setting in settings:
        base = setting["added_bytes"][UNFUSED]
        for name, unit in setting["sub_unit"].items():
            model, added = setting["model"][name], setting["added_bytes"][name]
            lines.append(
                [str(setting["tokens"]), name, f"{unit['latency_ms']['median']:.1f}"]
                + [f"{unit[key]['value']:.2f}" for key in ("of_unfused", "of_fused")]
                + [f"{added / 1e6:.1f}", f"{added / base:.2f}" if base else "none"]
                + [f"{model['latency_ms']['median']:.0f}"]
                + [f"{model[key]['value']:.2f}" for key in ("of_unfused", "of_fused")]
            )
    return markdown(head, lines)


def bars(settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best of local, Reformer and Linformer at 2,048 tokens: time and added memory, against unfused attention."""
    found = []
    for setting in [each for each in settings if each["tokens"] == BAR_TOKENS]:
        rows = [
            (max(unit["of_unfused"]["value"], setting["added_bytes"][name] / setting["added_bytes"][UNFUSED]), name)
            for name, unit in setting["sub_unit"].items()
            if name.startswith(BARRED)
        ]
        share, best = min(rows)
        label = f"time and added memory at {BAR_TOKENS} tokens, the larger share: {best}"
        found.append({"name": label, "required": BAR, "measured": share, "met": share <= BAR})
    return found


def main() -> int:
    """Time by turns, measure memory apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512, BAR_TOKENS])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--results", type=Path, default=Path("results/attention.json"))
    parser.add_argument("--measure", choices=list(PATTERNS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(added_bytes(options.measure, options.tokens[0])))
        return 0
    models = {name: made(name) for name in PATTERNS}
    settings = []
    for tokens in options.tokens:
        units = timed({name: sub_unit(name, tokens, model) for name, model in models.items()}, options.rounds)
        passes = timed(
            {name: whole(name, tokens, model) for name, model in models.items()}, max(3, options.rounds // 3)
        )
        added = {name: in_a_process(name, tokens, options.threads) for name in PATTERNS}
        settings.append({"tokens": tokens, "sub_unit": units, "model": passes, "added_bytes": added})
        shown = ", ".join(f"{name} {row['of_unfused']['value']:.2f}" for name, row in units.items())
        print(f"{tokens} tokens, time of the sub-unit over unfused: {shown}", file=sys.stderr, flush=True)
    checked = bars(settings)
    for bar in checked:
        verdict = "met" if bar["met"] else "MISSED"
        print(f"{bar['name']}: {bar['measured']:.3f}, at most {bar['required']:.3f}: {verdict}", file=sys.stderr)
    save_timings(options.results, {"settings": settings, "bars": checked}, options.threads)
    options.results.with_suffix(".md").write_text(table(settings), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
