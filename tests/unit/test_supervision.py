"""Stages that learn from text without labels: whom from, what is masked, and what stays as it was."""

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from bertpress import tasks
from bertpress.encoder.imports import load_pretrained
from bertpress.errors import RecipeError
from bertpress.methods.registry import find
from bertpress.recipe import Recipe, Stage
from bertpress.runfolder import RunFolder
from bertpress.runner import Request, press
from bertpress.stages import Data, Run, run_stage
from bertpress.supervision import masked_lm_of
from bertpress.training import TrainSettings

TRAIN = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=3600)
UNLABELLED = {"name": "general", "data": "unlabelled", "teacher": "pretrained", "train": {}}
TEXTS = tasks.texts_of(("text",), tasks.Rows({"text": [f"the {w} was good ." for w in ("cat", "dog", "film")]}))


@pytest.fixture(scope="module")
def masked_lm_folder(tiny_model, tmp_path_factory):
    """The tiny model with a masked-LM head that was trained, as far as anyone can see."""
    folder = tmp_path_factory.mktemp("models") / "masked-lm"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        BertForMaskedLM(BertConfig.from_pretrained(tiny_model)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture
def setting(masked_lm_folder, tiny_rows, tmp_path):
    """A function from a folder of the model to a run and its model."""
    rows = [tasks.from_records(tiny_rows("text-classification", n, seed)) for n, seed in ((24, 1), (12, 2))]
    data = Data(tasks.with_labels(tasks.resolve("text-classification", max_length=32), rows[0]), *rows)

    def made(folder=masked_lm_folder, **more):
        model = load_pretrained(folder, data.task.head()).model
        tokenizer = AutoTokenizer.from_pretrained(folder)
        place = RunFolder.open(tmp_path / f"run{len(list(tmp_path.iterdir()))}", {}, resume=False)
        run = Run(place, data, tokenizer, 0, lambda line: None, model, masked_lm=lambda: masked_lm_of(folder), **more)
        return run, model

    return made


def stage(use, **fields):
    methods = tuple((name, find(name)(**options)) for name, options in use.items())
    return Stage(**{"name": "general", "data": "unlabelled", "methods": methods, "train": TRAIN, **fields})


def test_words_are_learnt_and_nothing_of_it_is_left(setting):
    run, model = setting(unlabelled=TEXTS)
    train = TRAIN.model_copy(update={"epochs": 40.0, "learning_rate": 5e-3})
    after, report = run_stage(run, stage({"distill/mlm": {}}, train=train), 1, model, model)
    losses = [point["terms"]["mlm"] for point in report["train"]["log"]]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert after.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.head.state_dict().items():
        assert torch.equal(after.head.state_dict()[name], weight), name
    weight = "encoder.layers.0.attention.query.weight"
    assert not torch.equal(after.get_parameter(weight), model.get_parameter(weight))


def test_a_student_learns_guesses_of_the_model_as_it_was_handed_in(setting):
    run, model = setting()
    use = {
        "student/transformer": {"layers": 1},
        "distill/logits": {"alpha": 1.0, "temperature": 2.0, "weight": 5.0},
        "distill/mlm": {"weight": 2.0},
    }
    after, report = run_stage(run, stage(use, teacher="pretrained"), 1, model, model)
    assert report["train"]["log"][0]["terms"].keys() == {"logits", "mlm"}
    assert report["train"]["examples"] == len(set(run.data.train.column("text")))
    assert len(after.blueprint.layers) == 1


def test_text_without_a_masked_language_model_is_not_masked(setting):
    run, _ = setting()
    plain = run.reading(stage({"student/transformer": {}}))
    assert (plain.task.kind, plain.train.columns.keys()) == ("text-classification", {"text"})
    assert run.reading(stage({"distill/mlm": {}})).task.kind == "masked-lm"
    assert run.reading(Stage(name="task")) is run.data


def test_guesses_need_a_teacher_that_guesses(setting, tiny_model):
    run, model = setting(tiny_model)
    wanted = r"leave its logits out \(distill/logits: alpha=0, or distill/mlm\), or give a model that has one"
    for teacher in ("pretrained", str(tiny_model)):
        general = stage({"distill/logits": {}}, teacher=teacher)
        with pytest.raises(RecipeError, match=rf"general, teacher=.*: the model has no masked-LM head; {wanted}$"):
            run_stage(run, general, 1, model, model)
    for teacher in ("original", "previous"):
        with pytest.raises(RecipeError, match=f"general, teacher={teacher}: answers the task, not masked words; say "):
            run_stage(run, stage({"distill/logits": {}}, teacher=teacher), 1, model, model)
    run_stage(run, stage({"distill/logits": {"alpha": 0.0}}), 1, model, model)  # pure likelihood, with a fresh head


def test_a_wrong_teacher_is_refused_before_anything_is_made(tiny_model, tiny_data, tmp_path):
    general = {"name": "general", "data": "unlabelled", "teacher": "pretrained", "use": ["distill/logits"], "train": {}}
    request = Request(
        tiny_model, Recipe.parse({"name": "r", "stages": [general]}), tasks.resolve("text-classification"),
        tmp_path / "run", tiny_data(),
    )  # fmt: skip
    with pytest.raises(RecipeError, match="stage general, teacher=pretrained: the model has no masked-LM head"):
        press(request)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "task"}, "general, distill/mlm: needs a stage with data: unlabelled"),
        ({"train": None, "use": ["prune/layers"]}, "general: data=unlabelled needs a train section, with select: l"),
        ({"train": {"select": "best"}}, "general: data=unlabelled needs a train section, with select: last"),
        ({"use": ["student/transformer"]}, "general: data=unlabelled has nothing to learn; use distill/mlm or "),
        ({"use": ["distill/progressive", "distill/mlm"]}, "general: distill/progressive learns apart from distill/mlm"),
        ({"use": ["prune/dynabert"]}, "general, prune/dynabert: learns the task, which data=unlabelled does not tell"),
        (
            {"use": ["distill/logits"], "data": "task", "teacher": "pretrained"},
            "general, distill/logits: teacher=pretrained answers no task; say original, previous or the folder of a",
        ),
    ],
)
def test_stages_that_cannot_work_are_refused(changes, message):
    plain = {"name": "general", "data": "unlabelled", "use": ["distill/mlm"], "train": {}, **changes}
    with pytest.raises(RecipeError, match=f"^r stage {message}"):
        Recipe.parse({"name": "r", "stages": [plain]}).check()


def test_a_run_reads_the_texts_that_it_is_told(tiny_model, tiny_data, tiny_rows, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("the cat was good .\nthe dog was bad .\n", encoding="utf-8")
    stages = [
        {"name": "general", "data": "unlabelled", "use": ["distill/mlm"], "train": {"epochs": 1}},
        {"name": "task", "train": {"epochs": 1}},
    ]
    recipe = Recipe.parse({"name": "r", "stages": stages, "fine_tune": {"epochs": 0.1}, "export": []})
    seen = {}
    for name, unlabelled in (("file", file), ("list", TEXTS), ("data", None)):
        request = Request(
            tiny_model, recipe, tasks.resolve("text-classification"), tmp_path / name, tiny_data(),
            unlabelled=unlabelled,
        )  # fmt: skip
        seen[name] = press(request).stages[0]["train"]["examples"]
    texts = {row["text"] for row in tiny_rows("text-classification", 48, 1)}
    assert seen == {"file": 2, "list": len(TEXTS), "data": len(texts)}


@pytest.mark.parametrize("name", ["minilm", "minilmv2", "codir", "hidden"])
@pytest.mark.parametrize("more", [{}, {"distill/mlm": {}}])
def test_layers_of_the_pretrained_model_are_learnt_on_text_alone(setting, name, more):
    run, model = setting()
    use = {"student/transformer": {"layers": 1}, f"distill/{name}": {}, **more}
    Recipe.parse({"name": "r", "stages": [{**UNLABELLED, "use": [{key: value} for key, value in use.items()]}]}).check()
    after, report = run_stage(run, stage(use, teacher="pretrained"), 1, model, model)
    terms = report["train"]["log"][0]["terms"]
    assert "task" not in terms
    assert ("mlm" in terms) == bool(more)
    assert len(terms) > len(more)
    assert len(after.blueprint.layers) == 1


@pytest.mark.parametrize("name", ["minilm", "minilmv2"])
def test_with_the_tasks_loss_text_alone_is_not_enough(name):
    use = [{f"distill/{name}": {"task": 1.0}}]
    with pytest.raises(RecipeError, match=f"^r stage general, distill/{name}: learns the task, which data=unlabelled"):
        Recipe.parse({"name": "r", "stages": [{**UNLABELLED, "use": use}]}).check()
