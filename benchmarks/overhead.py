"""What our encoder and our trainer cost, against transformers, in one interleaved run.

Forward: the same random weights in our encoder and in transformers' with scaled-dot-product attention; the shapes of
MiniLM-L6 and BERT-base, 32 and 128 tokens, batch 1 and 8, and a padded batch of 8.  The two run by turns; the ratio
is the median of paired ratios (time of transformers / our time), which must be at least 0.98.

Training: fine-tuning the MiniLM shape on data like SST-2, by turns in blocks of some hundred examples, each from the
same weights: our trainer as it comes against a default `transformers.Trainer` that pads to the batch's longest;
examples a second must be at least 1.5 times as many.  Without ``--model`` and ``--data`` the weights are random and
the sentences made up, with the lengths of SST-2's train split.

    python benchmarks/overhead.py [--json] [--model DIR --data DIR/sst2] [--threads 2] [--part forward]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import made_on
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from bertpress.encoder.imports import from_transformers
from bertpress.measure.environment import environment, usable_cores
from bertpress.measure.statistics import Latency, paired_ratio, rounded
from bertpress.tasks import Encoded, encode, from_records, load, resolve, with_labels
from bertpress.training import TrainSettings, train

SHAPES = {"MiniLM-L6": (6, 384, 12, 1536), "BERT-base": (12, 768, 12, 3072)}
FORWARD_BAR = 0.98
TRAINING_BAR = 1.5
AGREEMENT = 1e-4

# Words a sentence in SST-2's train split (67,349 phrases), and the share of sentences that are shorter.
SST2_WORDS = (1, 2, 3, 4, 5, 7, 9, 12, 15, 21, 27, 36, 52)
SST2_SHARES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
MADE_UP_WORDS = 8_000


def main() -> None:
    arguments = parse()
    say("quiet machine? load average", environment()["load_average"])
    torch.set_num_threads(arguments.threads)
    figures: dict[str, Any] = {
        "benchmark": "overhead",
        "threads": arguments.threads,
        "seed": arguments.seed,
        **made_on(threads=arguments.threads, seed=arguments.seed),
    }
    # the stock Trainer prints its figures, and standard output is for ours
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        if arguments.part in ("forward", "all"):
            figures["forward"] = forward(arguments)
        if arguments.part in ("training", "all"):
            figures["training"] = training(arguments, Path(folder))
    figures["bars"] = bars(figures)
    text = json.dumps(rounded(figures), indent=1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    for bar in figures["bars"]:
        say(f"{bar['name']}: {bar['measured']:.3f}, at least {bar['required']}: {'met' if bar['met'] else 'MISSED'}")
    if arguments.json:
        print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the results on standard output")
    parser.add_argument("--out", type=Path, default=Path("results/overhead.json"))
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=("all", "forward", "training"), default="all")
    parser.add_argument("--rounds", type=int, default=60, help="pairs of blocks of forward passes for each setting")
    parser.add_argument("--model", type=Path, help="folder of a transformers model to fine-tune")
    parser.add_argument("--data", type=Path, help="folder with SST-2's train file")
    parser.add_argument("--examples", type=int, default=960, help="in each block of training")
    parser.add_argument("--blocks", type=int, default=6, help="pairs of blocks of training")
    parser.add_argument("--batch-size", type=int, default=32)
    return parser.parse_args()


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for, what was measured, and whether it is met."""
    found = [
        (f"forward {row['shape']}, {row['tokens']} tokens, batch {row['batch']}{', padded' * row['padded']}",
         FORWARD_BAR, row["ratio"]["value"])
        for row in figures.get("forward", [])
    ]  # fmt: skip
    if "training" in figures:
        found.append(("fine-tuning", TRAINING_BAR, figures["training"]["ratio"]["value"]))
    return [
        {"name": name, "required": required, "measured": measured, "met": measured >= required}
        for name, required, measured in found
    ]


def forward(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both encoders by turns, for every shape, length and batch."""
    rows = []
    for shape in SHAPES:
        reference = random_bert(shape, arguments.seed)
        ours = from_transformers(reference).eval()
        settings = [*itertools.product((32, 128), (1, 8), (False,)), (32, 8, True), (128, 8, True)]
        for tokens, batch, padded in settings:
            inputs = made_up_inputs(tokens, batch, padded, arguments.seed)
            row = {"shape": shape, "tokens": tokens, "batch": batch, "padded": padded}
            rows.append(row | compare(reference, ours, inputs, arguments.rounds))
            say(row, "transformers / bertpress:", rows[-1]["ratio"]["value"])
    return rows


def compare(reference: nn.Module, ours: nn.Module, inputs: dict[str, torch.Tensor], rounds: int) -> dict[str, Any]:
    """Time two models on the same inputs by turns, in blocks of about 20 ms, and see that they agree."""
    with torch.inference_mode():
        gap = float((reference(**inputs).logits - ours(**inputs).logits).abs().max())
        if gap > AGREEMENT:
            raise SystemExit(f"the two encoders differ by {gap}")
        block = max(1, round(0.02 / seconds(lambda: ours(**inputs), 3)))
        jobs = {"transformers": lambda: reference(**inputs), "bertpress": lambda: ours(**inputs)}
        taken: dict[str, list[float]] = {name: [] for name in jobs}
        for turn in range(rounds + 3):
            for name in sorted(jobs, reverse=turn % 2 == 0):
                spent = seconds(jobs[name], block)
                if turn >= 3:
                    taken[name].append(1e3 * spent)
    return {
        "transformers_ms": Latency.of(taken["transformers"]).model_dump(mode="json"),
        "bertpress_ms": Latency.of(taken["bertpress"]).model_dump(mode="json"),
        "ratio": paired_ratio(taken["transformers"], taken["bertpress"]).model_dump(mode="json"),
        "passes_in_a_block": block,
        "largest_difference": gap,
    }


def seconds(job: Callable[[], Any], times: int) -> float:
    """Seconds that one run takes, from several in a row."""
    began = time.perf_counter()
    for _ in range(times):
        job()
    return (time.perf_counter() - began) / times


def random_bert(shape: str, seed: int, vocabulary: int = 30_522) -> BertForSequenceClassification:
    layers, hidden, heads, ffn = SHAPES[shape]
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary, num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
        intermediate_size=ffn, attn_implementation="sdpa",
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def made_up_inputs(tokens: int, batch: int, padded: bool, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1_000, 30_000, (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        for row in range(1, batch):
            mask[row, tokens - row * tokens // (2 * batch) :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def training(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both trainers by turns, each block from the same weights on the same examples."""
    reference, tokenizer = fine_tuning_model(arguments, folder)
    ours = from_transformers(reference)
    blocks = fine_tuning_blocks(arguments, tokenizer)
    runs = {
        "transformers": lambda data: stock(copy.deepcopy(reference), data, tokenizer, arguments, folder),
        "bertpress": lambda data: own(copy.deepcopy(ours), data, tokenizer, arguments, folder, "auto"),
        "bertpress in float32": lambda data: own(copy.deepcopy(ours), data, tokenizer, arguments, folder, "float32"),
    }
    for run in runs.values():
        run(blocks[0])  # to warm up
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn, data in enumerate(blocks[1:]):
        for name in sorted(runs, reverse=turn % 2 == 0):
            taken[name].append(runs[name](data))
            say(
                f"training block {turn + 1} of {arguments.blocks}, {name}: {len(data) / taken[name][-1]:.1f} examples/s"
            )
    count = arguments.examples
    return {
        "examples": count,
        "batch_size": arguments.batch_size,
        "mean_tokens": float(np.mean([length for data in blocks[1:] for length in data.lengths])),
        "data": "SST-2" if arguments.data else "made up, with SST-2's lengths",
        "seconds": taken,
        "examples_per_second": {name: count / float(np.median(spent)) for name, spent in taken.items()},
        "ratio": paired_ratio(taken["transformers"], taken["bertpress"]).model_dump(mode="json"),
        "ratio_in_float32": paired_ratio(taken["transformers"], taken["bertpress in float32"]).model_dump(mode="json"),
    }


def fine_tuning_model(arguments: argparse.Namespace, folder: Path) -> tuple[BertForSequenceClassification, Any]:
    """A stock model with two labels, and its tokenizer."""
    if not arguments.model:
        return random_bert("MiniLM-L6", arguments.seed), made_up_tokenizer(folder)
    torch.manual_seed(arguments.seed)
    model = BertForSequenceClassification.from_pretrained(arguments.model, attn_implementation="sdpa")
    return model, AutoTokenizer.from_pretrained(arguments.model)


def fine_tuning_blocks(arguments: argparse.Namespace, tokenizer: Any) -> list[Encoded]:
    """A short block to warm up with, and as many as were asked for, of sentences that differ."""
    task, warm = resolve("sst2"), 4 * arguments.batch_size
    wanted = warm + arguments.examples * arguments.blocks
    if arguments.data:
        rows = load(task, "train", arguments.data).limit(wanted, arguments.seed)
    else:
        rows = from_records(made_up_sentences(wanted, arguments.seed), source="made up")
    task = with_labels(task, rows, None)
    bounds = [0, *range(warm, wanted + 1, arguments.examples)]
    parts = [rows.subset(range(*pair)) for pair in itertools.pairwise(bounds)]
    return [encode(task, part, tokenizer, training=True) for part in parts]


def made_up_sentences(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    lengths = np.interp(rng.random(count), SST2_SHARES, SST2_WORDS).round().astype(int)
    return [
        {"sentence": " ".join(f"w{word}" for word in rng.integers(0, MADE_UP_WORDS, length)), "label": i % 2}
        for i, length in enumerate(lengths)
    ]


def made_up_tokenizer(folder: Path) -> Any:
    """A tokenizer that has each word of :func:`made_up_sentences` as one token."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(MADE_UP_WORDS))]
    path = folder / "vocab.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return BertTokenizerFast(vocab=str(path))


def stock(model: nn.Module, data: Encoded, tokenizer: Any, arguments: argparse.Namespace, folder: Path) -> float:
    """Seconds of one epoch with transformers' Trainer as it comes: nothing is set but the batch size."""
    keep = ("input_ids", "token_type_ids", "labels")
    items = [data[i] for i in range(len(data))]
    examples = [{key: np.asarray(item[key]).tolist() for key in keep if key in item} for item in items]
    settings = TrainingArguments(
        str(folder / "stock"), num_train_epochs=1, per_device_train_batch_size=arguments.batch_size,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, settings, train_dataset=examples, data_collator=DataCollatorWithPadding(tokenizer))
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def own(
    model: nn.Module, data: Encoded, tokenizer: Any, arguments: argparse.Namespace, folder: Path, precision: str
) -> float:
    """Seconds of one epoch with our trainer as it comes."""
    settings = TrainSettings(epochs=1, batch_size=arguments.batch_size, precision=precision)
    with tempfile.TemporaryDirectory(dir=folder) as run:
        began = time.perf_counter()
        train(model, task=data.task, data=data, tokenizer=tokenizer, settings=settings, folder=Path(run) / "run")
        return time.perf_counter() - began


def say(*words: Any) -> None:
    print(*words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
