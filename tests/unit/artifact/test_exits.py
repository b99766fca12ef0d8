"""The curve of early exits: measured by hand, kept in the manifest, and what decides the speed."""

import numpy as np
import pytest
import torch
from exit_models import tiny

from bertpress import artifact, tasks
from bertpress.artifact.exits import described, mean_macs, speed_for, speed_of
from bertpress.encoder.blueprint import ExitRule
from bertpress.encoder.costs import exit_macs
from bertpress.engines import load_engine
from bertpress.engines.staged import Staged
from bertpress.errors import ArtifactError

CURVE = [
    {"speed": 0.0, "saving": 1.0, "drop": 0.0},
    {"speed": 0.2, "saving": 1.4, "drop": 0.4},
    {"speed": 0.3, "saving": 1.6, "drop": 0.9},
    {"speed": 0.4, "saving": 1.7, "drop": 0.5},
]


def test_the_point_that_saves_most_among_the_permitted():
    assert [speed_for(CURVE, drop) for drop in (0, 0.45, 0.5, 5)] == [0.0, 0.2, 0.4, 0.4]


def test_a_speed_or_what_it_may_cost():
    exits = {"curve": CURVE}
    assert speed_of(exits, None, None, "m") is None
    assert speed_of(exits, 0.3, None, "m") == 0.3
    assert speed_of(exits, None, 0.4, "m") == 0.2
    for given, message in (
        ((exits, 0.3, 0.4), "give speed=0.3 or max_drop=0.4, not both"),
        ((exits, None, -1.0), r"max_drop=-1 must be in \[0, 100\]"),
        ((None, None, 0.4), "has no curve of early exits to read max_drop=0.4 off"),
    ):
        with pytest.raises(ArtifactError, match=message):
            speed_of(*given, "m")


def test_costs_by_hand():
    shape = tiny().blueprint
    three, five = exit_macs(shape, 3), exit_macs(shape, 5)
    assert mean_macs(shape, [3, 5, 3], [0, 3, 1]) == pytest.approx((three[0] + five[3] + three[1]) / 3)
    found = described(shape, [2, 0, 1, 1], 0.3, tokens=5)
    assert found["mean_layer"] == (2 * 1 + 3 + 4) / 4
    assert found["macs"] == pytest.approx((2 * five[0] + five[2] + five[3]) / 4)


@pytest.fixture
def made(tmp_path, tiny_model, tiny_rows):
    from transformers import AutoTokenizer

    from bertpress.encoder.imports import load_pretrained

    kind = "text-classification"
    rows = tasks.from_records(tiny_rows(kind, 24, 1), split="train")
    task = tasks.with_labels(tasks.resolve(kind, max_length=32), rows)
    loaded = load_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(loaded.tokenizer_source)
    rule = ExitRule(criterion="entropy", drop=100.0)
    shape = tiny(labels=len(task.labels), rule=rule).blueprint
    words = shape.embeddings.model_copy(update={"vocabulary": len(tokenizer)})
    from bertpress.encoder.model import build_model

    torch.manual_seed(0)
    model = build_model(shape.replace(embeddings=words))
    return artifact.save(model, tokenizer, task, tmp_path / "model"), rows


def test_the_curve_is_kept_and_decides(made):
    pressed, rows = made
    pressed.calibrate_exits(rows)
    again = artifact.load(pressed.path)
    curve = again.manifest.exits["curve"]
    assert curve[0]["speed"] == curve[0]["drop"] == 0
    assert curve[0]["saving"] == 1
    assert np.all(np.diff([point["macs"] for point in curve]) <= 0)
    assert again.manifest.exits["speed"] == 1.0  # everything may be lost
    assert again.manifest.exits["rows"] == 24
    engine = load_engine("torch", again.path)
    assert isinstance(engine, Staged)
    assert engine.speed == 1.0
    assert not isinstance(load_engine("torch", again.path, speed=0), Staged)
    point = curve[5]
    scored = again.evaluate(rows, speed=point["speed"])
    assert next(iter(scored.values())).value == pytest.approx(point["metric"])
    texts = rows.column(again.task.text_columns[0])[:3]
    whole = list(again.predict(texts, speed=0))
    assert whole == list(again.predict(texts, max_drop=0)) or curve[1]["drop"] <= 0


def test_a_model_without_exits_has_no_curve(made, tmp_path):
    from bertpress.encoder.surgery import keep_layers

    pressed, rows = made
    bare = artifact.save(keep_layers(pressed.model, [1]), pressed.tokenizer, pressed.task, tmp_path / "bare")
    with pytest.raises(ArtifactError, match="has no early exits; methods of the family exit make models that do"):
        bare.calibrate_exits(rows)
