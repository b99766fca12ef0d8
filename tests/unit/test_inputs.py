"""From what a caller may hand in to what the floors below take."""

import pytest

from bertpress import inputs
from bertpress.errors import DataError, RecipeError
from bertpress.recipe import Recipe
from bertpress.tasks import Rows, resolve


def test_recipes_by_name_data_and_object():
    plain = {"name": "mine", "stages": [{"use": ["prune/heads"]}]}
    parsed = inputs.recipe_of(plain)
    assert parsed.name == "mine"
    assert plain == {"name": "mine", "stages": [{"use": ["prune/heads"]}]}
    assert inputs.recipe_of(parsed) is parsed
    assert inputs.recipe_of("quick", profile="small").profile == "small"
    with pytest.raises(RecipeError, match="resolved already"):
        inputs.recipe_of(parsed, overrides=["name=x"])


def test_trackers_reach_every_training():
    recipe = inputs.recipe_of("quick", report_to=["tensorboard"])
    assert recipe.fine_tune.report_to == ("tensorboard",)
    assert [stage.train.report_to for stage in recipe.stages if stage.train] == [("tensorboard",)]
    assert Recipe.parse(recipe.to_dict()) == recipe


def test_a_task_takes_changes_in_either_form():
    by_name, own = inputs.task_of("mrpc", "accuracy", {"max_length": 64})
    by_object, _ = inputs.task_of(resolve("mrpc"), "accuracy", {"max_length": 64})
    assert by_name == by_object
    assert own is None
    measure = max
    assert inputs.task_of("sst2", measure, {}) == (resolve("sst2"), measure)
    named, _ = inputs.task_of(resolve("sst2"), None, {"id2label": {1: "good", 0: "bad"}})
    assert named.labels == ("bad", "good")
    with pytest.raises(DataError, match="task sst2: max_length=3 must be in"):
        inputs.task_of(resolve("sst2"), None, {"max_length": 3})


class Made:
    """Stands for an artifact."""

    path = "folder"

    def __init__(self, task):
        self.task = task


def test_an_artifact_keeps_its_labels_and_lengths_on_another_task():
    trained = resolve("sst2", id2label=["bad", "good"], max_length=32)
    assert inputs.task_for(Made(trained), None, None, {})[0] == trained
    assert inputs.task_for(Made(trained), "sst2", None, {"label_column": "y"})[0].label_column == "y"
    other, _ = inputs.task_for(Made(trained), "subj", None, {})
    assert (other.text_columns, other.labels, other.max_length) == (("text",), ("bad", "good"), 32)
    with pytest.raises(DataError, match="task mrpc: is text-pair-classification, but folder is for text-class"):
        inputs.task_for(Made(trained), "mrpc", None, {})
    with pytest.raises(DataError, match="folder: the artifact has no task; name one"):
        inputs.task_for(Made(None), None, None, {})


def test_rows_of_whatever_there_is():
    from datasets import ClassLabel, Dataset, Features, Value

    records = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    rows = inputs.rows_of(records, "train")
    assert inputs.rows_of(rows, "validation") is rows
    assert inputs.rows_of(None, "train") is None
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    found = inputs.rows_of(Dataset.from_list(records, features=features), "train")
    assert isinstance(found, Rows)
    assert found.columns == rows.columns
    assert found.names["label"] == ("no", "yes")


def test_a_run_stands_for_its_model(tmp_path):
    assert inputs.model_of("some/name") == "some/name"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    assert inputs.model_of(tmp_path) == tmp_path / "model"
    (tmp_path / "config.json").touch()
    assert inputs.model_of(tmp_path) == tmp_path


def test_labels_and_weights_of_the_command_line(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('{"0": "bad", "1": "good"}', encoding="utf-8")
    assert inputs.labels_from(path) == {"0": "bad", "1": "good"}
    path.write_text("3", encoding="utf-8")
    with pytest.raises(DataError, match="must hold a list of names"):
        inputs.labels_from(path)
    assert inputs.weights_from("balanced") == "balanced"
    assert inputs.weights_from("1,2.5") == [1.0, 2.5]


def test_settings_of_training():
    assert inputs.settings_of(["epochs=2"], ["mlflow"]).report_to == ("mlflow",)
    with pytest.raises(RecipeError, match=r'--set stage 1, train: unknown field "epoch"; did you mean "epochs"\?'):
        inputs.settings_of(["epoch=2"], [])


def test_lines_of_standard_input():
    one, two = resolve("sst2"), resolve("squad")
    assert list(inputs.texts_from(["[a]\n", "b\tc\r\n", "\n"], one)) == ["[a]", "b\tc", ""]
    lines = ["who\tanna\n", '["who", "anna"]\n', '{"question": "who", "context": "anna"}\n']
    found = list(inputs.texts_from(lines, two))
    assert found == [["who", "anna"], ["who", "anna"], {"question": "who", "context": "anna"}]
    with pytest.raises(DataError, match="standard input line 1: broken JSON"):
        list(inputs.texts_from(["[a\n"], two))
    assert list(inputs.texts_from(["[deleted] by user\tanna\n"], two)) == [["[deleted] by user", "anna"]]
    assert list(inputs.texts_from(["\ufeffwarm\n", "\ufeffwarm\n"], one)) == ["warm", "\ufeffwarm"]
