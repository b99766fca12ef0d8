"""Several tasks in a stage: what is refused, what their loss is made of, and that nothing of them is kept."""

from typing import ClassVar

import pytest
import torch
from transformers import AutoTokenizer

from bertpress import artifact, tasks
from bertpress.data import load_data
from bertpress.encoder.imports import load_pretrained
from bertpress.errors import DataError, RecipeError
from bertpress.methods.base import Method
from bertpress.methods.pieces import content, rebuilt
from bertpress.methods.registry import find
from bertpress.other_tasks import Asked, lessons, load_others
from bertpress.recipe import Recipe, Stage
from bertpress.runner import Request, press
from bertpress.stages import Run, context_for
from bertpress.training.objectives import Penalty, TaskLoss

OTHERS = ("text-regression", "token-classification")
TRAIN = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32", "log_points": 100}
MATCH = {"distill/logits": {"alpha": 1.0, "loss": "mse"}}


@pytest.fixture(scope="module")
def data(tiny_data):
    """The folder above those of all kinds."""
    folders = [tiny_data(kind) for kind in ("text-classification", *OTHERS)]
    return folders[0].parent


@pytest.fixture(scope="module")
def teachers(tiny_model, data, tmp_path_factory):
    """Folders of teachers by task, and of the run's own model, with heads that pass for trained."""
    root, tokenizer = tmp_path_factory.mktemp("teachers"), AutoTokenizer.from_pretrained(tiny_model)
    for seed, kind in enumerate(("text-classification", *OTHERS)):
        rows = tasks.load(tasks.resolve(kind), "train", data)
        task = tasks.with_labels(tasks.resolve(kind), rows)
        artifact.save(load_pretrained(tiny_model, task.head(), seed=seed).model, tokenizer, task, root / kind)
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture
def request_for(teachers, data, tmp_path):
    """A function from the tasks of a stage to a request."""

    def made(asks, use=MATCH, data=data, **train):
        stage = {"name": "distil", "use": [{name: given} for name, given in use.items()], "train": TRAIN | train}
        recipe = Recipe.parse({"name": "r", "stages": [{**stage, "tasks": asks}], "export": []})
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        return Request(teachers["text-classification"], recipe, tasks.resolve("text-classification"), out, data)

    return made


def test_the_artifact_is_of_one_task_and_as_large_as_without_the_others(request_for, teachers):
    """The head of the run's own task, one layer, and nothing else; in the folder of the data or beside it."""
    alone = press(request_for({}))
    several = press(request_for({kind: teachers[kind] for kind in OTHERS}))
    sizes = [(made.artifact.path / "model.safetensors").stat().st_size for made in (alone, several)]
    assert sizes[0] == sizes[1]
    states = [made.artifact.model.state_dict() for made in (alone, several)]
    assert {name: weight.shape for name, weight in states[0].items()} == {
        name: weight.shape for name, weight in states[1].items()
    }
    assert not torch.equal(*(state["encoder.layers.0.attention.query.weight"] for state in states))
    log = several.stages[0]["train"]["log"]
    assert [len(point["terms"]) for point in log] == [1] * 18
    names = [next(iter(point["terms"])) for point in log]
    assert {name: names.count(name) for name in names} == {
        "logits": 6, "text-regression/logits": 6, "token-classification/logits": 6,
    }  # fmt: skip


class Small(Method):
    """Adds a penalty, and a term that reads the tape."""

    cite: ClassVar[str] = "a test"

    def objectives(self, ctx):
        tape = TaskLoss(name="tape", captures=frozenset({"hidden_states"}))
        return [Penalty("small", lambda: torch.zeros(())), tape]


class Asks(Method):
    """Learns the answers of a teacher, and remembers whose."""

    cite: ClassVar[str] = "a test"
    supervises: ClassVar[bool] = True
    seen: ClassVar[list] = []

    def objectives(self, ctx):
        self.seen.append((ctx.task, ctx.teacher))
        return [TaskLoss()]


def test_a_method_is_asked_for_the_terms_of_each_task_and_its_teacher(request_for, teachers, tmp_path):
    others, run = loaded(request_for, teachers)
    asks = {kind: teachers[kind] for kind in OTHERS}
    stage = Stage(name="s", methods=(("test/asks", Asks()),), tasks=asks)
    Asks.seen.clear()
    lessons(stage, others, run.teacher, context_for(run, seed=5), shared=[], cache=tmp_path)
    assert Asks.seen == [(other.task, other.teacher) for other in others.values()]


def test_another_task_is_taught_by_the_terms_on_logits_and_the_penalties(request_for, teachers, tmp_path):
    small = ("test/small", Small())
    stage = Stage(name="s", methods=(("distill/logits", find("distill/logits")(alpha=0.5)), small), tasks={
        kind: teachers[kind] for kind in OTHERS
    })  # fmt: skip
    others, run = loaded(request_for, teachers)
    ctx = context_for(run, seed=5)
    own = [term for _, method in stage.methods for term in method.objectives(ctx)]
    found = lessons(stage, others, run.teacher, ctx, shared=own, cache=tmp_path / "cache")
    for lesson, kind in zip(found, OTHERS, strict=True):
        asked = others[Asked(kind, teachers[kind])]
        assert [term.name for term in lesson.objectives] == ["task", "logits", "small"]
        assert (lesson.task, lesson.teacher.model) == (asked.task, asked.teacher)
        assert lesson.objectives[1].kind == asked.task.head().kind
    heads = ctx.state["other_heads"]
    assert {kind: head.classifier.out_features for kind, head in heads.items()} == {OTHERS[0]: 1, OTHERS[1]: 2}
    again = context_for(run, seed=5)
    lessons(stage, others, run.teacher, again, shared=own, cache=tmp_path / "cache")
    for one, other in zip(heads.parameters(), again.state["other_heads"].parameters(), strict=True):
        assert torch.equal(one, other)


def loaded(request_for, teachers):
    """The other tasks and the run of a request."""
    request = request_for({kind: teachers[kind] for kind in OTHERS})
    data, tokenizer = load_data(request), AutoTokenizer.from_pretrained(teachers[OTHERS[0]])
    others = load_others(request, data.task, tokenizer)
    return others, Run(None, data, tokenizer, 0, str, artifact.load(request.model).model)


def test_tasks_are_found_beside_the_folder_of_the_runs_own(request_for, teachers, data):
    request = request_for({OTHERS[0]: teachers[OTHERS[0]]}, data=data / "text-classification")
    found = load_others(request, tasks.resolve("text-classification"), AutoTokenizer.from_pretrained(request.model))
    assert [len(other.rows) for other in found.values()] == [48]


@pytest.mark.parametrize(
    ("asks", "use", "words"),
    [
        (
            {"masked-lm": "x"},
            MATCH,
            r"^r stage distil, tasks\.masked-lm: has no labels, so that no teacher answers it$",
        ),
        ({"mrpc": "x"}, {}, "^r stage distil, tasks: need a method that learns their teachers' answers, such as dist"),
        (
            {"mrpc": "x"},
            {"prune/dynabert": {}},
            "tasks: prune/dynabert trains its own passes, which other tasks cannot",
        ),
    ],
)
def test_recipes_that_make_no_sense(asks, use, words, request_for):
    with pytest.raises(RecipeError, match=words):
        request_for(asks, use).recipe.check()


def test_tasks_need_training_on_the_task():
    stage = {"name": "s", "use": ["distill/logits"], "tasks": {"mrpc": "x"}}
    with pytest.raises(RecipeError, match="^r stage s, tasks: need a train section, and data: task$"):
        Recipe.parse({"name": "r", "stages": [{**stage, "use": ["prune/heads"]}]}).check()
    with pytest.raises(RecipeError, match=r"^r stage s, tasks: task 'mrcp' is unknown; did you mean 'mrpc'\?$"):
        Recipe.parse({"name": "r", "stages": [{**stage, "tasks": {"mrcp": "x"}}]}).check()


def test_what_cannot_be_learnt_is_refused_before_anything_is_made(request_for, teachers, tiny_model, data, tmp_path):
    strange, tokenizer = tmp_path / "strange", AutoTokenizer.from_pretrained(teachers[OTHERS[0]])
    pieces = content(tokenizer)
    pieces["model"]["vocab"]["strange"] = pieces["model"]["vocab"].pop(next(reversed(pieces["model"]["vocab"])))
    tokenizer = rebuilt(tokenizer, pieces)
    rows = tasks.load(tasks.resolve(OTHERS[0]), "train", data)
    model = artifact.load(teachers[OTHERS[0]]).model
    artifact.save(model, tokenizer, tasks.with_labels(tasks.resolve(OTHERS[0]), rows), strange)
    kind = OTHERS[0]
    for asks, fault, words in (
        ({"text-classification": "x"}, RecipeError, "=x: is the run's own task, whose teacher is the one of the"),
        ({kind: str(tiny_model)}, RecipeError, f"tasks.{kind}=.*: has no trained head for the task {kind}$"),
        ({kind: str(strange)}, RecipeError, f"tasks.{kind}=.*: its vocabulary differs from the one of "),
        ({"mrpc": "x"}, DataError, "tasks.mrpc=x: --data .* has no folder mrpc, in it or beside it$"),
    ):
        request = request_for(asks)
        with pytest.raises(fault, match=words):
            press(request)
        assert not request.out.exists()


def test_a_task_is_set_from_outside_and_the_recipe_runs_without_any():
    assert Recipe.load("mkd").stages[0].tasks == {}
    given = Recipe.load("mkd", overrides=["stages.distil.tasks.mrpc=teachers/mrpc", "stages.0.tasks.stsb=t/stsb"])
    assert given.stages[0].tasks == {"mrpc": "teachers/mrpc", "stsb": "t/stsb"}
    given.check()
    assert Recipe.parse(given.to_dict()) == given
