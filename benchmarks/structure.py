"""Low rank, shared and squeezed weights, smaller vocabularies and other attention: each at two strengths.

    python benchmarks/structure.py --data DIR [--teachers DIR] [--tasks sst2 mrpc] [--only NAME ...] [--seeds 0]
    python benchmarks/structure.py --data DIR --time [--threads 2]

The first form trains; see benchmarks/comparison.py for how a row is run.  The second, on a quiet machine, exports each
artifact of seed 0 to OpenVINO, times it by turns with the teacher on real texts at batch 1, and notes the memory that
both took at most; where a row has a vocabulary of its own, it scores texts that both tokenizers cut alike apart from
the others.  Writes results/structure.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from comparison import TOKENS, Row, markdown, place_of, save, scored, teacher_of, timed, timing_of, train_or_time

from bertpress import artifact, tasks
from bertpress.outcome import texts_of
from bertpress.study.vocabulary import MATCHING, matching_tokens

TASKS = ("sst2", "mrpc")
FIRST = "stages.0.use.0"
OF_OUTPUTS = {f"{FIRST}.weighted": True, "stages.0.train.learning_rate": 5e-5}

VOCABULARIES: dict[str, Row] = {
    "vocabulary of the texts": Row("vocabulary"),
    "vocabulary of 5,000 new pieces": Row("vocabulary", {f"{FIRST}.train": 5000}),
}


def alone(method: str, rate: float, **fields: Any) -> Row:
    """One method, trained on the labels as ALBERT is."""
    train = {"epochs": 3, "max_steps": 844, "learning_rate": rate}
    stage = {"name": "train", "use": [{method: fields}], "train": train}
    return Row({"name": "alone", "stages": [stage], "export": []})


# by the name of the line
ROWS: dict[str, Row] = {
    # what is given on texts is kept, not the weights as such: the model hardly needs the training, so less of it
    "SVD, half of the encoder": Row("svd-features", OF_OUTPUTS),
    "SVD, a quarter of the encoder": Row("svd-features", {**OF_OUTPUTS, f"{FIRST}.rank": 0.16}),
    "SVD as published, half of the encoder": Row("svd-features"),
    "SVD as published, a quarter of the encoder": Row("svd-features", {f"{FIRST}.rank": 0.16}),
    "embedding of 128": alone("factorize/embedding", 5e-5, size=128),
    "embedding of 128, tokens alike": alone("factorize/embedding", 5e-5, size=128, weighted=False),
    "embedding of 64": alone("factorize/embedding", 5e-5, size=64),
    "shared by all layers": alone("share/layers", 1e-4, groups=1),
    "shared by pairs of layers": alone("share/layers", 1e-4, groups=0.5),
    "shared by all layers, embedding of 128 (ALBERT)": Row("albert"),
    "local attention, 16 to either side": Row("local-attention", {f"{FIRST}.window": 16}),
    "local attention, 8 to either side": Row("local-attention", {f"{FIRST}.window": 8}),
    "Linformer, 32": Row("linformer", {f"{FIRST}.size": 32}),
    "Linformer, 16": Row("linformer", {f"{FIRST}.size": 16}),
    "Reformer, 2 hashes": Row("reformer"),
    "Reformer, 1 hash": Row("reformer", {f"{FIRST}.rounds": 1}),
    "top 8 keys": Row("top-k-attention", {f"{FIRST}.k": 8}),
    "top 4 keys": Row("top-k-attention", {f"{FIRST}.k": 4}),
    "adaptive span": Row("adaptive-span"),
    "adaptive span, ten times the penalty": Row("adaptive-span", {f"{FIRST}.penalty": 0.1}),
    "DeFormer, three quarters of the layers": Row("deformer", tasks=("mrpc",)),
    "DeFormer, half of the layers": Row("deformer", {f"{FIRST}.layers": 0.5}, tasks=("mrpc",)),
    **VOCABULARIES,
    "codes, 32 of 16": Row("compositional-codes", {f"{FIRST}.codebooks": 32, f"{FIRST}.entries": 16}),
    "codes, 16 of 32": Row("compositional-codes", {f"{FIRST}.codebooks": 16, f"{FIRST}.entries": 32}),
    "codes, 8 of 16": Row("compositional-codes", {f"{FIRST}.codebooks": 8, f"{FIRST}.entries": 16}),
    "weight squeezing": Row("weight-squeezing"),
    "weight squeezing, gated": Row("weight-squeezing", {f"{FIRST}.gated": True}),
    "LadaBERT": Row("ladabert"),
    "large, then compressed": Row("large-then-compress"),
    # what it is held against: a small one of about that size, cut from the pre-trained model and trained alone
    "small, alone": Row(
        {
            "name": "small-alone",
            "stages": [
                {
                    "name": "train",
                    "use": [{"student/transformer": {"layers": 0.5, "hidden_size": 0.5, "heads": 0.5, "ffn": 0.5}}],
                    "train": {"epochs": 3, "max_steps": 844, "learning_rate": 1e-4},
                }
            ],
            "export": [],
        },
        start="pretrained",
    ),
}


def measured(name: str, task: str, options: argparse.Namespace) -> dict[str, Any]:
    """Latency and memory beside the teacher's; of another vocabulary also the two kinds of texts."""
    place = place_of(options, name, task, 0) / "model"
    teacher = teacher_of(task, options.teachers)
    found: dict[str, Any] = timed({"teacher": teacher, "artifact": place}, task, options.data, options.threads)
    if name in VOCABULARIES:
        found["vocabulary"] = by_tokens(*(artifact.load(folder) for folder in (teacher, place)), task, options)
    return found


def by_tokens(
    teacher: artifact.Artifact, made: artifact.Artifact, task: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Tokens that both tokenizers cut alike, and the drop on the texts that have only such tokens and on the others."""
    rows = tasks.load(tasks.resolve(task), "validation", options.data)
    texts = [" ".join([text] if isinstance(text, str) else text) for text in texts_of(tasks.resolve(task), rows)]
    shares = [matching_tokens([text], teacher.tokenizer, made.tokenizer) for text in texts]
    found: dict[str, Any] = {"matching": matching_tokens(texts, teacher.tokenizer, made.tokenizer)}
    for kind, whole in (("same", True), ("other", False)):
        part = rows.subset([i for i, share in enumerate(shares) if (share == 100) == whole])
        found[kind] = {"texts": len(part)}
        if len(part):
            before, after = (next(iter(each.evaluate(part).values())).value for each in (teacher, made))
            found[kind]["drop"] = before - after
    return found


def notes(entry: Mapping[str, Any]) -> str:
    """What a vocabulary of its own does to texts."""
    found = entry.get("timing", {}).get("vocabulary")
    if found is None:
        return ""
    parts = [f"{found['matching']:.1f} % of the tokens as before ({MATCHING:.0f} % claimed of 5,000 pieces)"]
    for kind, words in (("same", "texts of such tokens alone"), ("other", "others")):
        if "drop" in found[kind]:
            parts.append(f"drop {found[kind]['drop']:+.1f} on {found[kind]['texts']} {words}")
    return "; ".join(parts)


def table(entries: list[dict[str, Any]]) -> str:
    """One line a method and task."""
    head = ["method", "task", "file", "% of teacher", "% without embeddings", "MACs", "OpenVINO float32", "peak memory"]
    head += ["metric, drop [95 %], processor seconds", "notes"]
    lines = []
    for name in ROWS:
        for task in TASKS:
            first = next((entry for entry in entries if (entry["name"], entry["task"]) == (name, task)), None)
            if first is None:
                continue
            times = first.get("timing", {}).get("artifact")
            cells = [name, task, f"{first['weight_bytes'] / 1e6:.1f} MB", f"{first['percent_of_teacher']:.1f}"]
            cells += [f"{first['percent_without_embeddings']:.1f}", f"{first['macs'] / 1e6:.0f} M"]
            faster = [f"{times['speedup']:.2f}x", f"{times['peak_memory_bytes'] / 1e6:.0f} MB"] if times else None
            lines.append([*cells, *(faster or ["not run"] * 2), scored(entries, name, task), notes(first)])
    return markdown(head, lines)


def write(options: argparse.Namespace, entries: list[dict[str, Any]]) -> None:
    """Results of every run that has ended so far, of this command and of earlier ones."""
    whole = [entry | timing_of(entry, options) for entry in entries]
    save(options, {"entries": whole, "macs_tokens": TOKENS})
    options.results.with_suffix(".md").write_text(table(whole), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(train_or_time(__doc__, TASKS, "structure", ROWS, measured, write))
