"""Every shipped recipe in its profile `small` on real texts, as one study: each in a process of its own, to its page.

The model is tiny, the steps are few; the texts are the demo's headlines of five topics.
"""

import json
from collections import Counter

import pytest
from tiny_world import WORDS, write_model
from transformers import BertForMaskedLM

from bertpress.demo import prepare
from bertpress.recipe import Recipe, shipped
from bertpress.study.conduct import study

pytestmark = pytest.mark.slow
TINY = {"epochs": 1.0, "max_examples": 16, "max_steps": 4, "batch_size": 8, "precision": "float32"}
SPECIAL = WORDS[:5]
OF_PAIRS = ("deformer",)


def changes(recipe):
    """What makes every stage of a recipe short, and lets it do with few rows."""
    found = {} if recipe.labels is None else {"labels": 32}
    for number, stage in enumerate(recipe.stages):
        found |= {f"stages.{number}.repeat": 1, f"stages.{number}.until": None}
        if stage.train is not None:
            found |= {f"stages.{number}.train.{name}": value for name, value in TINY.items()}
    return found


def frequent_words(path, count=500):
    """A vocabulary: the words of a file of rows that occur most."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    counts = Counter(word for row in rows for word in row["text"].lower().split() if word.isalpha())
    return [*SPECIAL, *(word for word, _ in counts.most_common(count))]


def write_pairs(folder, data):
    """Pairs of headlines that follow each other, and whether they are of one topic."""
    folder.mkdir()
    for path in data.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = (
            {"sentence1": one["text"], "sentence2": other["text"], "label": int(one["label"] == other["label"])}
            for one, other in zip(rows[::2], rows[1::2], strict=False)
        )
        (folder / path.name).write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return folder


def test_every_recipe_runs_in_a_study(tmp_path):
    data = prepare(tmp_path / "data").data
    pairs = write_pairs(tmp_path / "pairs", data)
    limits = {"train_limit": 96, "validation_limit": 48}
    model = write_model(tmp_path / "tiny", BertForMaskedLM, frequent_words(data / "train.jsonl"), layers=6)
    found = study(
        {
            "name": "smoke",
            "models": [{"name": "tiny", "path": str(model)}],
            "tasks": [
                {"name": "topics", "task": "text-classification", "data": str(data), **limits},
                {"name": "pairs", "task": "text-pair-classification", "data": str(pairs), **limits},
            ],
            "profile": "small",
            "rows": [
                {"recipe": name, "set": changes(Recipe.load(name, profile="small")),
                 "tasks": ["pairs" if name in OF_PAIRS else "topics"]}
                for name in shipped()
            ],
            "teacher": {"epochs": 2, "learning_rate": 2e-3},
            "threads": 1,
            "limits": {"minutes": 10, "memory_gib": 8},
            "timing": {"engines": ["openvino"], "rounds": 1},
        },
        out=tmp_path / "out",
    )  # fmt: skip
    assert [(each["name"], each["said"]) for each in found["failures"]] == []
    assert len(found["entries"]) == len(shipped())
