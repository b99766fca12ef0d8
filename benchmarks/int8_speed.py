"""Our 8-bit export of the BERT-base shape against NNCF's own post-training int8, and against PyTorch eager float32.

    pip install 'bertpress[benchmarks]'
    python benchmarks/int8_speed.py [--threads 2] [--tokens 32 128] [--rounds 40]

The same random weights go three ways: transformers in PyTorch eager float32; transformers converted by OpenVINO and
quantized by NNCF (preset mixed, model type transformer); our encoder with ``quantize/int8``, exported.  Ranges come
from the same random token ids.  The three run by turns at batch 1; ratios are medians of paired ratios.  Writes
results/int8_speed.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import save_timings
from transformers import BertConfig, BertForSequenceClassification

from bertpress.encoder.imports import from_transformers
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.engines import load_engine
from bertpress.export.openvino import export
from bertpress.measure.environment import usable_cores
from bertpress.measure.statistics import Latency, paired_ratio
from bertpress.methods.base import Context
from bertpress.methods.quantize.int8 import Int8

NNCF_BAR, EAGER_BAR = 0.97, 4.0
CALIBRATION, LENGTH, VOCABULARY = 64, 128, 30522


def batches(count: int, tokens: int, seed: int, size: int = 1) -> list[dict[str, torch.Tensor]]:
    """Random ids without pads, ``size`` examples each."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, VOCABULARY, (count, size, tokens), generator=random)
    return [{"input_ids": x, "attention_mask": torch.ones_like(x), "token_type_ids": torch.zeros_like(x)} for x in ids]


def by_nncf(model: torch.nn.Module, calibration: list[dict[str, torch.Tensor]], folder: Path) -> Path:
    """transformers, converted and quantized by the tools of its makers."""
    import nncf
    import openvino

    example = batches(2, 7, 3)[0]
    graph = openvino.convert_model(model, example_input=example)
    for port in graph.inputs:
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    graph.validate_nodes_and_infer_types()
    data = nncf.Dataset(calibration, lambda batch: {name: value.numpy() for name, value in batch.items()})
    mixed, kind = nncf.QuantizationPreset.MIXED, nncf.ModelType.TRANSFORMER
    made = nncf.quantize(graph, data, model_type=kind, preset=mixed, subset_size=CALIBRATION)
    (folder / "openvino").mkdir(parents=True)
    openvino.save_model(made, folder / "openvino/model.xml", compress_to_fp16=False)
    return folder


def by_us(ours: BertpressPreTrainedModel, calibration: list[dict[str, torch.Tensor]], folder: Path) -> Path:
    """Our encoder, ``quantize/int8``, exported."""
    context = Context(task=None, tokenizer=None, seed=0)  # type: ignore[arg-type]
    context.calibration = lambda examples, by_length: calibration
    export(Int8().finish(ours, context), folder)
    return folder


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, warm: Mapping[str, Callable[[], Any]] | None = None
) -> dict[str, list[float]]:
    """Milliseconds of each, by turns, forwards and backwards; what warms it up comes before the clock starts."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 3):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            time.sleep(0.02)  # waiting threads of the one before spin for some milliseconds
            if warm is not None:
                warm[name]()
            began = time.perf_counter()
            runs[name]()
            if turn >= 3:
                seconds[name].append(1e3 * (time.perf_counter() - began))
    return seconds


def main() -> int:
    """Make the three, time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--results", type=Path, default=Path("results/int8_speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = BertConfig(num_labels=2, attn_implementation="eager")
    model = BertForSequenceClassification(config).eval()
    calibration = batches(CALIBRATION, LENGTH, 1)
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        theirs = load_engine("openvino", by_nncf(model, calibration, Path(scratch) / "nncf"), options.threads)
        ours = load_engine(
            "openvino", by_us(from_transformers(model), calibration, Path(scratch) / "ours"), options.threads
        )
        for tokens in options.tokens:
            batch = batches(1, tokens, 2)[0]
            arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in batch.items()}

            def eager(batch: dict[str, torch.Tensor] = batch) -> None:
                with torch.no_grad():
                    model(**batch)

            times = interleaved(
                {
                    "eager": eager,
                    "nncf": lambda arrays=arrays: theirs.logits(arrays),  # type: ignore[misc]
                    "bertpress": lambda arrays=arrays: ours.logits(arrays),  # type: ignore[misc]
                },
                options.rounds,
            )
            row = {
                "tokens": tokens,
                **{name: Latency.of(samples).model_dump() for name, samples in times.items()},
                "faster_than_nncf": paired_ratio(times["nncf"], times["bertpress"]).model_dump(),
                "faster_than_eager": paired_ratio(times["eager"], times["bertpress"]).model_dump(),
            }
            figures.append(row)
            shown = ", ".join(f"{bar} {row[bar]['value']:.2f}" for bar in ("faster_than_nncf", "faster_than_eager"))
            print(f"{tokens} tokens: {shown}", file=sys.stderr)
    content = {
        "lengths": figures,
        "bars": {"faster_than_nncf": NNCF_BAR, "faster_than_eager": EAGER_BAR},
    }
    save_timings(options.results, content, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
