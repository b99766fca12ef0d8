"""What a stage starts from, and whom it learns from."""

from typing import ClassVar

import pytest
import torch
from transformers import AutoTokenizer

from bertpress import artifact, tasks
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.surgery import keep_heads, keep_neurons, keep_positions
from bertpress.errors import ModelError, RecipeError
from bertpress.methods.base import Method
from bertpress.methods.distill.augment import Augment
from bertpress.methods.distill.logits import Logits
from bertpress.methods.registry import find
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.stages import Data, Run, run_stage
from bertpress.training import TrainSettings
from bertpress.training.objectives import Penalty

TRAIN = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=3600)


class Look(Method):
    """Remembers its context."""

    cite: ClassVar[str] = "a test"
    seen: ClassVar[list] = []

    def attach(self, model, ctx):
        self.seen.append(ctx)
        return model


@pytest.fixture(scope="module")
def data(tiny_rows):
    rows = [
        tasks.from_records(tiny_rows("text-classification", n, seed), split="rows") for n, seed in ((24, 1), (12, 2))
    ]
    return Data(tasks.with_labels(tasks.resolve("text-classification", max_length=32), rows[0]), *rows)


@pytest.fixture
def model(tiny_model, data):
    return lambda: load_pretrained(tiny_model, data.task.head()).model


@pytest.fixture
def run(tiny_model, data, model, tmp_path):
    folder = RunFolder.open(tmp_path / "run", {}, resume=False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return Run(folder, data, tokenizer, 0, lambda line: None, model())


def context_of(run, previous, pretrained, **stage):
    Look.seen.clear()
    run_stage(run, Stage(name="only", methods=(("test/look", Look()),), **stage), 1, previous, pretrained)
    return Look.seen[-1]


def test_a_stage_learns_from_whom_it_names(run, model, tmp_path):
    previous, pretrained = model(), model()
    previous.head.classifier.bias.data.fill_(1.0)
    ctx = context_of(run, previous, pretrained)
    assert ctx.teacher is run.teacher
    assert ctx.pretrained is pretrained


def test_the_stage_before_can_be_the_teacher_and_is_never_touched(run, model):
    previous = model()
    previous.head.classifier.bias.data.fill_(1.0)
    ctx = context_of(run, previous, model(), teacher="previous", train=TRAIN)
    assert ctx.teacher is not previous
    assert torch.equal(ctx.teacher.head.classifier.bias, torch.ones(2))


def test_a_folder_can_be_the_teacher(run, model, tmp_path):
    other = model()
    other.head.classifier.bias.data.fill_(2.0)
    artifact.save(other, run.tokenizer, run.data.task, tmp_path / "other")
    ctx = context_of(run, model(), model(), teacher=str(tmp_path / "other"))
    assert torch.equal(ctx.teacher.head.classifier.bias, torch.full((2,), 2.0))


def test_a_model_that_is_not_fine_tuned_is_no_teacher(run, model, tiny_model):
    with pytest.raises(RecipeError, match=r"stage only, teacher .*: has no trained head for the task text-class"):
        context_of(run, model(), model(), teacher=str(tiny_model))


@pytest.fixture
def taught(run, model, tmp_path):
    """A function from names of labels to a folder whose model says the first of them of everything."""

    def folder(*names):
        teacher = model()
        teacher.head.classifier.weight.data.zero_()
        teacher.head.classifier.bias.data.copy_(torch.tensor([3.0, 0.0]))
        task = run.data.task.replace(labels=names)
        artifact.save(teacher, run.tokenizer, task, place := tmp_path / "-".join(names))
        return str(place)

    return folder


@pytest.mark.parametrize("turned", [False, True])
def test_a_teachers_labels_are_told_apart_by_their_names(run, model, taught, turned):
    first, second = run.data.task.labels
    names = (second.upper(), first) if turned else (first, second.upper())
    ctx = context_of(run, model(), model(), teacher=taught(*names))
    said = ctx.teacher(input_ids=torch.tensor([[2, 3]])).logits[0]
    assert said.tolist() == ([0.0, 3.0] if turned else [3.0, 0.0])


def test_numbers_are_no_names_of_a_teachers_labels(run, model, taught):
    ctx = context_of(run, model(), model(), teacher=taught("1", "0"))
    assert ctx.teacher.head.classifier.bias.tolist() == [3.0, 0.0]


def test_a_teacher_with_labels_of_its_own_is_refused(run, model, taught):
    names = ", ".join(run.data.task.labels)
    with pytest.raises(
        RecipeError, match=rf"^stage only, teacher .*: its labels x, y must be the task's {names}, in any"
    ):
        context_of(run, model(), model(), teacher=taught("x", "y"))


def test_a_teacher_that_takes_fewer_tokens_than_a_text_has_is_refused(run, model):
    run.teacher = keep_positions(model(), 5)
    stage = Stage(name="only", methods=(("distill/logits", Logits()),), train=TRAIN)
    with pytest.raises(
        RecipeError, match=r"^stage only: its teacher takes 5 tokens, and a text has \d+; say max_length=5"
    ):
        run_stage(run, stage, 1, model(), model())


def test_zeros_of_the_stage_before_stay_zero(run, model):
    previous = model()
    weight = previous.get_parameter("encoder.layers.0.ffn.0.inner.weight").data
    weight[:, ::2] = 0
    stage = Stage(name="on", methods=(("test/look", Look()),), train=TRAIN)
    after, _ = run_stage(run, stage, 1, previous, model())
    trained = after.get_parameter("encoder.layers.0.ffn.0.inner.weight")
    assert not trained[:, ::2].any()
    assert not torch.equal(trained, weight)
    assert [codec.kind for codec in after.storage["encoder.layers.0.ffn.0.inner.weight"].codecs] == ["bitmap"]


class Pull(Method):
    """Pull one bias to 1."""

    cite: ClassVar[str] = "a test"

    def attach(self, model, ctx):
        ctx.state["pulled"] = torch.nn.ModuleList([model.head.classifier])
        return model

    def objectives(self, ctx):
        return [Penalty("pull", lambda: (ctx.state["pulled"][0].bias - 1).square().sum())]


@pytest.mark.parametrize(("task_loss", "terms"), [(True, {"task", "pull"}), (False, {"pull"})])
def test_the_loss_of_the_task_can_be_left_out(run, model, task_loss, terms):
    stage = Stage(name="only", methods=(("test/pull", Pull()),), train=TRAIN, task_loss=task_loss)
    before = model()
    after, report = run_stage(run, stage, 1, before, model())
    assert set(report["train"]["log"][0]["terms"]) == terms
    query = "encoder.layers.0.attention.query.weight"
    moved = not torch.equal(after.get_parameter(query), before.get_parameter(query))
    assert moved == task_loss


def test_copies_of_rows_are_read_where_a_teacher_answers_for_them_and_their_labels_are_not(run, model):
    use = (("distill/augment", Augment(copies=3)), ("distill/logits", Logits(alpha=0.5)), ("test/look", Look()))
    Look.seen.clear()
    _, report = run_stage(run, Stage(name="only", methods=use, train=TRAIN), 1, model(), model())
    ctx = Look.seen[-1]
    assert 24 < report["train"]["examples"] <= 24 * 4
    assert report["train"]["examples"] == len(ctx.train)
    assert [item["labels"] >= 0 for item in ctx.train] == [i < 24 for i in range(len(ctx.train))]

    _, alone = run_stage(run, Stage(name="alone", methods=use[:1], train=TRAIN), 2, model(), model())
    assert alone["train"]["examples"] == 24


def test_a_stage_without_any_loss_is_refused(run, model):
    words = "^stage only: has no loss; "
    with pytest.raises(RecipeError, match=words):
        context_of(run, model(), model(), train=TRAIN, task_loss=False)


def stage_of(*use):
    return Stage(name="only", methods=tuple((name, find(name)(**fields)) for name, fields in use), train=TRAIN)


@pytest.mark.parametrize("name", ["emd", "codir", "minilm", "minilmv2", "hidden", "probes"])
def test_a_student_is_built_before_its_layers_are_compared(run, model, name):
    stage = stage_of((f"distill/{name}", {}), ("student/transformer", {"layers": 1}))
    words = rf"^stage only, student/transformer: changes layers that distill/{name} compares; put it before that$"
    with pytest.raises(RecipeError, match=words):
        run_stage(run, stage, 1, model(), model())


@pytest.mark.parametrize("name", ["magnitude", "movement", "snip"])
def test_what_is_under_a_transform_is_not_cut(run, model, name):
    stage = stage_of((f"prune/{name}", {}), ("prune/heads", {"keep": 0.5, "examples": 8}))
    with pytest.raises(ModelError, match=r"^stage only, prune/heads: encoder.* is under a transform .*; cut first$"):
        run_stage(run, stage, 1, model(), model())


@pytest.mark.parametrize("name", ["magnitude", "movement", "rpp", "obert", "lottery_ticket", "blocks"])
def test_nothing_to_prune_is_said_in_a_line(run, model, name):
    bare = model()
    for layer in range(len(bare.blueprint.layers)):
        bare = keep_neurons(keep_heads(bare, {layer: []}), {(layer, 0): []})
    fields = {} if name == "blocks" else {"pooler": False}
    words = f"^stage only, prune/{name}: the model has no matrix left that could be pruned$"
    with pytest.raises(RecipeError, match=words):
        run_stage(run, stage_of((f"prune/{name}", fields)), 1, bare, bare)


def test_too_few_examples_for_a_sample_are_said_in_a_line(run, model):
    stage = Stage(name="only", methods=(("prune/obert", find("prune/obert")(examples=8, batch=32)),))
    with pytest.raises(RecipeError, match="^stage only, prune/obert: batch=32 must be at most the 8 examples that"):
        run_stage(run, stage, 1, model(), model())


@pytest.mark.parametrize("head", ["fresh", "rewind"])
def test_a_ticket_can_begin_again_as_a_bare_encoder(run, model, tiny_model, head):
    """The pre-trained model that a fine-tuned one came from has no classifier: a new one is drawn."""
    stage = stage_of(("prune/lottery_ticket", {"rewind": str(tiny_model), "head": head}))
    after, _ = run_stage(run, stage, 1, model(), model())
    kept = after.get_parameter("encoder.layers.0.attention.query.weight") != 0
    assert 0 < int(kept.sum()) < kept.numel()


@pytest.mark.parametrize("use", [("prune/ziplm", {}), ("prune/fisher", {"tune": "weights"})])
def test_zeros_are_not_given_new_values(run, model, use):
    sparse = model()
    sparse.get_parameter("encoder.layers.0.ffn.0.inner.weight").data[:, ::2] = 0
    stage = Stage(name="only", methods=((use[0], find(use[0])(examples=8, **use[1])),))
    words = f"^{use[0]}.*: gives all weights new values, and encoder.layers.0.ffn.0.inner.weight was pruned; let the"
    with pytest.raises(RecipeError, match=words):
        run_stage(run, stage, 1, sparse, sparse)
