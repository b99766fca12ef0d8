"""Files that mean harm: refused in one line, without running, opening or allocating what they ask for."""

import io
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_world import fast_tokenizer

from bertpress import api, artifact, plain_yaml, tasks
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.config import BertpressConfig
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.model import build_model
from bertpress.encoder.tokenizers import check_ids, read_tokenizer
from bertpress.errors import ArtifactError, BertpressError, DataError, ModelError, RecipeError, UserError
from bertpress.measure.texts import Reader
from bertpress.recipe import Recipe
from bertpress.report import run_page
from bertpress.runfolder import RunFolder
from bertpress.study.plan import Plan

TASK = tasks.resolve("text-classification", text_columns=("text",), label_column="label")


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def tokenizer_folder(tmp_path):
    place = tmp_path / "inside"
    fast_tokenizer().save_pretrained(place)
    return place


def test_code_beside_a_tokenizer_is_not_run_whatever_standard_input_says(tokenizer_folder, tmp_path, monkeypatch):
    """transformers would ask there whether to run it, and the first text to predict might be the answer."""
    (tokenizer_folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    edit(
        tokenizer_folder / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ModelError, match="no tokenizer"):
        read_tokenizer(tokenizer_folder)
    assert not (tmp_path / "ran").exists()
    assert sys.stdin.read() == "y\n" * 9


@pytest.mark.parametrize("name", ["../outside/tokenizer.4.0.0.json", "/etc/tokenizer.4.0.0.json", 5])
def test_a_tokenizer_reads_nothing_outside_its_folder(tokenizer_folder, name):
    edit(tokenizer_folder / "tokenizer_config.json", fast_tokenizer_files=[name])
    with pytest.raises(ModelError, match="fast_tokenizer_files: .* must be the name of a file beside it"):
        read_tokenizer(tokenizer_folder)


@pytest.mark.parametrize("length", ["long", float("nan"), -1, 0])
def test_a_length_must_be_a_number_of_tokens(tokenizer_folder, length):
    edit(tokenizer_folder / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(ModelError, match=f"model_max_length={length!r} must be a number of at least 1"):
        read_tokenizer(tokenizer_folder)
    with pytest.raises(ModelError, match=f"model_max_length={length!r} must be a number of at least 1"):
        Reader(tokenizer_folder)


def test_ids_that_the_model_lacks_are_refused(tokenizer_folder):
    tokenizer = read_tokenizer(tokenizer_folder)
    size = len(tokenizer)
    check_ids(tokenizer, size, "m")
    with pytest.raises(
        ModelError, match=rf"m: its tokenizer has the id {size - 1}, must be below the model's {size - 1}"
    ):
        check_ids(tokenizer, size - 1, "m")


def test_yaml_that_unfolds_without_end_is_refused_at_once():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    began = time.monotonic()
    for text, message in (
        (bomb, "more than 100,000 values"),
        ("a: &a [*a]", "more than 100,000 values"),
        ("[" * 20_000, "20,000 brackets are opened"),
        ("- " * 3000 + "x", "nested too deeply"),
        ("x" * 2**21, "2,097,152 characters"),
        ("when: 2020-99-99", "month must be in 1..12"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    ):
        with pytest.raises(ValueError, match=message):
            plain_yaml.parse(text)
    assert time.monotonic() - began < 20


def test_an_alias_of_good_will_is_read():
    text = "base: &b {epochs: 1}\nstages: [{train: *b}, {train: {<<: *b, batch_size: 8}}]"
    assert plain_yaml.parse(text)["stages"] == [{"train": {"epochs": 1}}, {"train": {"epochs": 1, "batch_size": 8}}]


def test_recipes_name_place_and_line(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: a\n  b: [")
    with pytest.raises(RecipeError, match=r"^r\.yaml line \d: not YAML: "):
        Recipe.load(path)
    with pytest.raises(RecipeError, match="is not a YAML value"):
        Recipe.load("quick", overrides=["stages.0.train.epochs=2020-99-99"])


@pytest.mark.parametrize("name", ["..", ".", "../x", "/x", ".hidden"])
def test_names_of_a_study_stay_below_its_folder(name):
    plain = {"name": "s", "models": [{"name": "m", "path": "p"}], "tasks": ["sst2"], "rows": ["quick"]}
    for key in ("models", "tasks"):
        with pytest.raises(UserError, match="name"):
            Plan.parse({**plain, key: [{"name": name, "path": "p"} if key == "models" else {"name": name}]})


def test_a_message_is_one_line_that_moves_no_cursor():
    assert str(DataError("label 'a\n\x1b[2Jb' is\t\ud800 unknown")) == "label 'a \ufffd[2Jb' is \ufffd unknown"


def encoded(folder):
    rows = tasks.load(TASK, "train", folder)
    return tasks.encode(tasks.with_labels(TASK, rows), rows, fast_tokenizer(), training=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "\\ud800", "label": "a"}', r"train\.jsonl line 1, column 'text': U\+D800 is no character"),
        ('{"text": ' + "9" * 5000 + "}", "line 1: unusable JSON"),
        ("[" * 100_000, "line 1: unusable JSON"),
    ],
)
def test_data_that_json_can_spell_and_nobody_can_use(tmp_path, line, message):
    (tmp_path / "train.jsonl").write_text(line + '\n{"text": "b", "label": "b"}\n')
    with pytest.raises(DataError, match=message):
        encoded(tmp_path)


@pytest.mark.parametrize(
    "answer",
    [{"text": -1, "answer_start": [4]}, {"text": ["a"], "answer_start": 4}, {"text": "a", "answer_start": "x"}],
)
def test_answers_of_other_types_are_named(answer):
    row = {"question": "q", "context": "a cat", "answers": answer}
    with pytest.raises(DataError, match="needs texts with answer_start"):
        tasks.references(tasks.resolve("question-answering"), tasks.from_records([row]))


@pytest.fixture
def small(tmp_path):
    torch.manual_seed(0)
    tokenizer = fast_tokenizer()
    shape = uniform(
        layers=1,
        hidden_size=16,
        heads=2,
        ffn=16,
        vocabulary=len(tokenizer),
        positions=64,
        head=HeadSpec(kind="sequence"),
    )
    return artifact.save(build_model(shape), tokenizer, TASK.replace(labels=("a", "b")), tmp_path / "small")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"max_length": None}, "task: max_length: "), ({"labels": ["a", "b", "c"]}, "has 3 labels, its model tells 2")],
)
def test_a_manifest_s_task_must_be_one_and_the_model_s(small, change, message):
    small.manifest = small.manifest.replace(task={**small.manifest.task, **change})
    with pytest.raises(ArtifactError, match=message):
        _ = small.task


@pytest.mark.parametrize("change", [{"architectures": [[]]}, {"architectures": True}, {"id2label": 5}])
def test_a_configuration_of_wrong_types_is_one_line(small, change):
    edit(small.path / "config.json", **change)
    for read in (BertpressConfig.read, load_pretrained):
        with pytest.raises(BertpressError):
            read(small.path)


def test_no_label_and_no_text_becomes_a_tag():
    evil = "<script>alert(1)</script>\"'><img onerror=x>"
    page = run_page({"task": {"name": evil, "labels": [evil]}, "recipe": {"name": evil}, "command": evil, "note": evil})
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img" not in page


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("bert", {"num_hidden_layers": 2**31}, "num_hidden_layers=2147483648 must be at most 10000"),
        ("distilbert", {"n_layers": 10**12}, "num_hidden_layers=1000000000000 must be at most 10000"),
        ("bert", {"num_attention_heads": 10**9, "hidden_size": 10**9}, "num_attention_heads=1000000000 must be"),
        ("mobilebert", {"num_feedforward_networks": 10**9}, "num_feedforward_networks=1000000000 must be"),
        ("albert", {"inner_group_num": 2**31}, "inner_group_num=2147483648 must be in"),
        ("albert", {"inner_group_num": 0}, "inner_group_num=0 must be in"),
    ],
)
def test_a_configuration_of_more_parts_than_one_can_count(model_type, fields, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **fields}))
    began = time.monotonic()
    with pytest.raises(ModelError, match=message):
        load_pretrained(tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["9" * 300, "9" * 5000, "/tmp/" + "9" * 5000, "a/" + "9" * 300])
def test_names_that_no_file_can_have(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the folder above such a name can be made
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"{{name: s, models: [{{name: m, path: '{name}'}}], tasks: [sst2], rows: [quick]}}", "utf-8")
    task = tasks.resolve("sst2")
    readers = [
        lambda: Plan.load(plan).check(),
        lambda: load_pretrained(Path(name)),
        lambda: Recipe.load(name),
        lambda: api.load(Path(name)),
        lambda: tasks.load(task, "train", Path(name)),
        lambda: artifact.folder.inside(tmp_path, name),
        lambda: RunFolder.open(Path(name), {}, resume=False),
    ]
    for reader in readers:
        with pytest.raises(UserError):
            reader()


def test_a_tokenizer_that_makes_its_library_panic(small, tmp_path):
    place = small.path / "tokenizer.json"
    tree = json.loads(place.read_text(encoding="utf-8"))
    del tree["post_processor"]["special_tokens"]["[SEP]"]
    place.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(ModelError, match="the tokenizer is damaged and cannot encode"):
        list(api.predict(artifact.load(small.path, verify=False), ["a film"]))
    with pytest.raises(ModelError, match="the tokenizer is damaged and cannot encode"):
        Reader(small.path).features("a film")
