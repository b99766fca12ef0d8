# %% [markdown]
# # Compress your classifier
#
# From a model and a list of texts to an artifact that is smaller and faster, and to the figures that show it. Run it
# as a script, or cell by cell in an editor that knows `# %%`.
#
#     python examples/compress_your_classifier.py MODEL DATA OUT
#
# `MODEL` is a hub name or a folder, `DATA` a folder with `train.jsonl` and `validation.jsonl` (`text` and `label`).

# %%
import json
import sys
from pathlib import Path

import bertpress

model, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
overrides = sys.argv[4:]  # such as stages.0.train.epochs=1

# %% [markdown]
# Your rows can come from anywhere: `datasets.load_dataset(...)`, a data frame's `to_dict("records")`, or this.


# %%
def read(split):
    return [json.loads(line) for line in (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


train, validation = read("train"), read("validation")
print(f"{len(train)} texts to learn from, {len(validation)} to be judged by")

# %% [markdown]
# The metric may be your own: a function of predictions and references (label ids here), higher is better.


# %%
def worst_class_recall(predictions, references):
    hits = {label: [] for label in set(references)}
    for guess, label in zip(predictions, references, strict=True):
        hits[label].append(guess == label)
    return 100 * min(sum(found) / len(found) for found in hits.values())


# %% [markdown]
# One call does it all: it fine-tunes the model if that has not been done, builds and distils the student, turns it to
# integers, exports it, and measures it from disk against the model that it came from.

# %%
artifact = bertpress.compress(
    model,
    task="text-classification",
    train=train,
    validation=validation,
    recipe="quick",
    metric=worst_class_recall,
    overrides=overrides,
    out=out,
    say=print,
)

# %% [markdown]
# What came out, in figures. The page `report.html` in the same folder shows them as charts.

# %%
figures = bertpress.results(out)
before, after = figures["baseline"], figures["artifact"]
print(f"file: {before['weight_bytes']:,} -> {after['weight_bytes']:,} bytes ({after['engine']})")
print(f"speed-up, batch 1: {after['speedup']:.1f}x")
print(f"{after['metric']['name']}: {before['metric']['value']:.1f} -> {after['metric']['value']:.1f}")

# %% [markdown]
# Use it: here with OpenVINO, which needs neither PyTorch nor bertpress in production.

# %%
for text, answer in zip(validation[:3], artifact.predict([row["text"] for row in validation[:3]]), strict=True):
    print(f"{answer['label']:>12} {answer['score']:.2f}  {text['text'][:60]}")
