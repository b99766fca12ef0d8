"""A run with early exits, from the recipe to the results: the speed is chosen, told and used on every engine."""

import json

import pytest

import bertpress
from bertpress.artifact.exits import speed_for


@pytest.mark.slow
def test_a_run_from_recipe_to_results(tiny_model, tiny_rows, tmp_path):
    train, validation = (tiny_rows("text-classification", rows, seed) for rows, seed in ((40, 1), (12, 2)))
    recipe = {
        "name": "exits",
        "stages": [
            {"name": "exits", "use": [{"exit/deebert": {"drop": 100}}], "train": {"epochs": 1, "batch_size": 8}},
            {"name": "quantize", "use": [{"quantize/int8": {"examples": 16}}]},
        ],
        "fine_tune": {"epochs": 1, "batch_size": 8},
        "export": ["openvino"],
    }
    made = bertpress.compress(
        tiny_model, task="text-classification", recipe=recipe, train=train, validation=validation, max_length=32,
        out=tmp_path / "run", threads=1,
    )  # fmt: skip
    results = json.loads((tmp_path / "run/results.json").read_text(encoding="utf-8"))
    curve = results["artifact"]["exit_curve"]
    assert curve == made.manifest.exits
    assert curve["rows"] == 4  # a tenth of train
    assert curve["speed"] == speed_for(curve["curve"], 100) > 0
    for engine in ("openvino", "torch"):
        told = results["artifact"]["engines"][engine]["exits"]
        assert told["speed"] == curve["speed"]
        assert sum(told["left"]) == 12
        assert told["macs"] < results["artifact"]["macs"]
    assert "Early exits" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
