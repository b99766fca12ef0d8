"""What a run hands on from one end of its straight line to the other."""

import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from bertpress import api, artifact, runner, tasks
from bertpress.encoder.imports import load_pretrained, tokenizer_of
from bertpress.errors import DataError, RecipeError, UserError
from bertpress.recipe import Recipe
from bertpress.training import TrainSettings

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


def test_sub_networks_of_a_stage_are_in_the_report_though_one_is_cut_out_at_last(tiny_model, tiny_data, tmp_path):
    widths = {"widths": [0.5, 1.0], "depths": [1.0]}
    stages = [
        {"name": "widths", "use": [{"prune/dynabert": widths}], "train": SHORT},
        {"name": "choice", "use": [{"prune/dynabert": {**widths, "width": 0.5, "depth": 1.0}}]},
    ]
    recipe = Recipe.parse({"name": "mine", "export": [], "fine_tune": SHORT, "stages": stages})
    task = tasks.resolve("text-classification", text_columns=("text",), label_column="label")
    said: list[str] = []
    request = runner.Request(tiny_model, recipe, task, tmp_path / "run", tiny_data(), threads=1)
    results = runner.run(request, said.append)
    small, large = results["subnetworks"]
    assert [(each["width"], each["depth"]) for each in (small, large)] == [(0.5, 1.0), (1.0, 1.0)]
    assert small["weight_bytes"] < large["weight_bytes"]
    assert small["metric"]["value"] == results["artifact"]["metric"]["value"]
    assert small["parameters"] == results["artifact"]["parameters"]
    assert "scoring sub-network 2 of 2: width 1, depth 1" in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert 'id="sub-networks"' in page
    assert "0.5 × 1" in page


def test_a_run_goes_on_with_the_rows_and_the_weights_that_it_began_with(tiny_model, tiny_data, tmp_path):
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(tiny_data(), data)
    shutil.copytree(tiny_model, model)
    task = tasks.resolve("text-classification", text_columns=("text",), label_column="label")
    settings = TrainSettings(**SHORT)

    def tuned(resume):
        return runner.fine_tune(model, task, tmp_path / "run", data=data, settings=settings, resume=resume)

    first = tuned(False)
    assert tuned(True)["metric"] == first["metric"]
    train = data / "train.jsonl"
    lines = train.read_text(encoding="utf-8").splitlines()
    train.write_text("\n".join(lines[::-1]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r'run: holds a run with rows.train="\d+ rows, [0-9a-f]+", not "\d+ rows, '):
        tuned(True)
    train.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tuned(True)
    weights = load_file(model / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r'run: holds a run with weights="[0-9a-f]+", not '):
        tuned(True)


def test_runs_share_the_answers_of_their_teacher(tiny_model, tiny_data, tmp_path):
    task = {"task": "text-classification", "text_columns": "text", "label_column": "label", "data": tiny_data()}
    api.train(tiny_model, out=tmp_path / "teacher", settings=TrainSettings(**SHORT), **task)

    def compressed(name, cache):
        stage = {"name": "distil", "use": [{"distill/logits": {}}], "train": SHORT}
        recipe = {"name": "mine", "export": [], "stages": [stage]}
        where = {"teacher": tmp_path / "teacher", "out": tmp_path / name, "threads": 1}
        return api.compress(tiny_model, recipe=recipe, cache=cache, **where, **task)

    shared = tmp_path / "shared"
    first = compressed("first", shared)
    (file,) = shared.glob("*.f32")
    written = file.stat().st_mtime_ns
    others = [compressed("second", shared), compressed("alone", None)]
    assert list(shared.glob("*.f32")) == [file]
    assert file.stat().st_mtime_ns == written
    assert not (tmp_path / "second/cache").exists()
    assert len(list((tmp_path / "alone/cache").glob("*.f32"))) == 1
    hashes = [made.manifest.files["model.safetensors"].sha256 for made in (first, *others)]
    assert len(set(hashes)) == 1
    with pytest.raises(UserError, match=r"config.json/teacher-[0-9a-f]+\.f32: cannot be written"):
        compressed("wrong", tiny_model / "config.json")


def test_a_teacher_of_other_labels_is_found_before_a_folder_is_made(tiny_model, tiny_data, tmp_path):
    task = tasks.resolve("text-classification", text_columns=("text",), label_column="label")
    named = task.replace(labels=("bad", "good"))
    recipe = Recipe.parse({"name": "mine", "export": [], "stages": [{"name": "same", "train": SHORT}]})
    for labels in (("good", "bad"), ("x", "y")):
        loaded = load_pretrained(tiny_model, named.head())
        artifact.save(loaded.model, tokenizer_of(loaded), named.replace(labels=labels), tmp_path / labels[0])
        request = runner.Request(
            tiny_model, recipe, named, tmp_path / f"run-{labels[0]}", tiny_data(), tmp_path / labels[0]
        )
        if labels == ("x", "y"):
            with pytest.raises(RecipeError, match="^--teacher .*: its labels x, y must be the task's bad, good, in"):
                runner.press(request)
            assert not request.out.exists()
        else:
            made = runner.press(request)
            text = ["the film was good ."]
            told = [
                next(iter(each.predict(text)))["scores"] for each in (made.baseline, artifact.load(tmp_path / "good"))
            ]
            assert told[0] == pytest.approx(told[1], abs=1e-5)
            assert list(told[0]) == ["bad", "good"]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_text_that_is_missing_is_found_before_a_folder_is_made(tiny_model, tiny_data, tmp_path, split):
    data = tmp_path / "data"
    shutil.copytree(tiny_data(), data)
    place = data / f"{split}.jsonl"
    place.write_text(place.read_text(encoding="utf-8") + '{"text": null, "label": 1}\n', encoding="utf-8")
    task = tasks.resolve("text-classification", text_columns=("text",), label_column="label")
    with pytest.raises(DataError, match=rf"{split}.jsonl line \d+, column 'text': the text is missing$"):
        runner.fine_tune(tiny_model, task, tmp_path / "run", data=data, settings=TrainSettings(**SHORT))
    assert not (tmp_path / "run").exists()
