"""What a run hands on from one end of its straight line to the other."""

from dataclasses import replace

from bertpress import runner, tasks
from bertpress.recipe import Recipe

SHORT = {"epochs": 1, "max_steps": 2, "batch_size": 8, "precision": "float32"}


def test_the_commit_that_came_from_the_hub_is_in_the_manifest(tiny_model, tiny_data, tmp_path, monkeypatch):
    load = runner.trained_model
    monkeypatch.setattr(runner, "trained_model", lambda *given: replace(load(*given), revision="0123abc"))
    stages = [{"name": "quantize", "use": [{"quantize/int8": {}}]}]
    recipe = Recipe.parse({"name": "mine", "export": [], "fine_tune": SHORT, "stages": stages})
    task = tasks.resolve("text-classification", text_columns=("text",), label_column="label")
    made = runner.press(runner.Request(tiny_model, recipe, task, tmp_path / "run", tiny_data()))
    assert made.artifact.manifest.parent.revision == "0123abc"
    assert made.artifact.manifest.parent.sha256 == made.baseline.manifest.files["model.safetensors"].sha256
