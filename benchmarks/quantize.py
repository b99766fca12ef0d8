"""Every quantization method at its published bit-widths, on several tasks, under equal conditions.

    python benchmarks/quantize.py --data DIR [--teachers DIR] [--tasks sst2 mrpc ag_news] [--only NAME ...] [--seeds 0]

See benchmarks/comparison.py for how a row is run.  Writes results/quantize.json, .md and .html.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from comparison import Row, arguments, compare, markdown, save, scored

from bertpress.report import sensitivity_page

TASKS = ("sst2", "mrpc", "ag_news")

# by the name of the line
ROWS: dict[str, Row] = {
    "linear, 8 bits": Row("linear-ptq"),
    "linear, 8 bits, one scale a matrix": Row("linear-ptq", {"stages.0.use.0.granularity": "tensor"}),
    "linear, 4 bits in groups of 64": Row(
        "linear-ptq",
        {"stages.0.use.0.bits": 4, "stages.0.use.0.granularity": "group", "stages.0.use.0.group": 64},
    ),
    "static int8": Row("int8"),
    "SmoothQuant int8": Row("smoothquant"),
    "Q8BERT": Row("q8bert"),
    "GOBO, 3 bits, embeddings 4": Row("gobo"),
    "GOBO, 4 bits, embeddings 4": Row("gobo", {"stages.0.use.0.bits": 4}),
    "GPTQ, 4 bits": Row("gptq", {"stages.0.use.0.bits": 4}),
    "GPTQ, 3 bits": Row("gptq", {"stages.0.use.0.bits": 3}),
    "AdaptivFloat, 8 bits": Row("adaptivfloat"),
    "AdaptivFloat, 6 bits": Row("adaptivfloat", {"stages.0.use.0.bits": 6}),
    "AdaptivFloat, 5 bits": Row("adaptivfloat", {"stages.0.use.0.bits": 5}),
    "AdaptivFloat, 4 bits": Row("adaptivfloat", {"stages.0.use.0.bits": 4}),
    "Q-BERT, mixed 2 and 4 bits": Row(
        "qbert",
        {"stages.0.use.0.low_bits": 2, "stages.0.use.0.samples": 4, "stages.0.use.0.sentences": 16},
    ),
    "Q-BERT, 4 bits": Row("qbert"),
    "Q-BERT, 2 bits": Row("qbert", {"stages.0.use.0.bits": 2}),
    "fixed point": Row("fixed-point"),
    "Quant-Noise, product codes": Row("quant-noise"),
    "TernaryBERT": Row("ternarybert"),
    # longer than the others, as the protocol allows where a bar needs it
    "TernaryBERT, the whole split": Row(
        "ternarybert",
        {"stages.0.train.max_examples": None, "stages.0.train.epochs": 1, "stages.0.train.learning_rate": 5.0e-4},
        tasks=("sst2",),
    ),
    "BinaryBERT": Row("binarybert"),
}
# the survey's claim that embeddings are the more sensitive part: each alone, and both
SENSITIVITY = {
    f"sensitivity: {part}, {bits} bits": Row(
        "linear-ptq",
        {
            "stages.0.use.0.bits": 32 if part == "embeddings" else bits,
            "stages.0.use.0.embedding_bits": 32 if part == "encoder" else bits,
        },
    )
    for part in ("embeddings", "encoder", "both")
    for bits in (8, 6, 5, 4, 3, 2)
}


def table(entries: list[dict[str, Any]]) -> str:
    """One line a method, one column a task."""
    named = [task for task in TASKS if any(entry["task"] == task for entry in entries)]
    head = ["method", "file", "% of teacher", "% without embeddings", "bits a weight"]
    head += [f"{task}: metric, drop [95 %], processor seconds" for task in named]
    lines = []
    for name in [*ROWS, *SENSITIVITY]:
        first = next((entry for entry in entries if entry["name"] == name), None)
        if first is not None:
            cells = [name, f"{first['weight_bytes'] / 1e6:.1f} MB", f"{first['percent_of_teacher']:.1f}"]
            cells += [f"{first['percent_without_embeddings']:.1f}", f"{first['bits_a_weight']:.2f}"]
            lines.append([*cells, *(scored(entries, name, task) for task in named)])
    return markdown(head, lines)


def write(options: argparse.Namespace, entries: list[dict[str, Any]]) -> None:
    """Results of every run that has ended so far, of this command and of earlier ones."""
    save(options, {"entries": entries})
    options.results.with_suffix(".md").write_text(table(entries), encoding="utf-8")
    options.results.with_suffix(".html").write_text(sensitivity_page(entries), encoding="utf-8")


def main() -> int:
    """Run what is asked for; results are written after every run."""
    options = arguments(__doc__, TASKS, "quantize").parse_args()
    return compare(ROWS | SENSITIVITY, options, partial(write, options))


if __name__ == "__main__":
    sys.exit(main())
