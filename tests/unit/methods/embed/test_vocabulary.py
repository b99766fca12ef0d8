"""Kept texts keep their bits, sizes add up, every later stage, the teacher and the artifact read with the right one."""

from typing import ClassVar

import pytest
import torch
from transformers import AutoTokenizer

from bertpress import artifact, tasks
from bertpress.artifact.sizes import file_bytes
from bertpress.encoder.imports import load_pretrained
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method
from bertpress.methods.distill.logits import Logits
from bertpress.methods.embed.vocabulary import Vocabulary, used
from bertpress.methods.registry import find
from bertpress.needs import check_needs
from bertpress.recipe import Recipe, Stage
from bertpress.runfolder import RunFolder
from bertpress.stages import Data, Run, run_stage
from bertpress.supervision import read_by_both
from bertpress.training import TaskLoss, TrainSettings, collate_for
from bertpress.training.teacher import Teacher, model_inputs

TRAIN = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3, precision="float32", checkpoint_seconds=3600)
TEXTS = ["the cat was good .", "the film was bad and cold ."]
HIDDEN = 32
TASK = tasks.resolve("sst2").replace(labels=("negative", "positive"))


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def model(tiny_model):
    made = load_pretrained(tiny_model, TASK.head()).model
    made.encoder.embeddings.word.weight.data[0] = 0.1  # fresh models have zeros for pads, which files keep as bits
    return made


def context(tokenizer, texts=TEXTS):
    return Context(task=TASK, tokenizer=tokenizer, seed=0, texts=lambda: texts)


def logits(model, tokenizer, texts):
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits


def test_tokens_by_hand():
    counts, ids = torch.tensor([5, 0, 2, 1]), {"a": 0, "b": 1, "c": 2, "d": 3}
    assert used(counts, ids, 0) == ["a", "b", "c", "d"]
    assert used(counts, ids, 1) == ["a", "c", "d"]
    assert used(counts, ids, 2) == ["a", "c"]


def test_kept_texts_have_the_same_bits_and_the_file_lost_the_rows(model, tokenizer, tmp_path):
    ctx = context(tokenizer)
    made = Vocabulary().attach(model, ctx)
    kept = len(ctx.tokenizer)
    assert kept < len(tokenizer)
    assert ctx.tokenizer is not tokenizer
    texts = [*TEXTS, "the cold cat ."]
    assert torch.equal(logits(made, ctx.tokenizer, texts), logits(model, tokenizer, texts))
    sizes = []
    for name, each, reads in (("before", model, tokenizer), ("after", made, ctx.tokenizer)):
        artifact.save(each, reads, ctx.task, tmp_path / name)
        sizes.append(file_bytes(tmp_path / name / "model.safetensors")["embeddings"])
    assert sizes[0] - sizes[1] == 4 * HIDDEN * (len(tokenizer) - kept)
    again = artifact.load(tmp_path / "after")
    assert torch.equal(logits(again.model, again.tokenizer, texts), logits(model, tokenizer, texts))
    assert ctx.notes["vocabulary"] == {"before": len(tokenizer), "after": kept}


def test_nothing_of_the_texts_becomes_unknown_and_rare_tokens_may_go(tokenizer, model):
    for minimum, lost in ((1, 0), (2, 5)):  # cat, good, film, bad and cold occur once
        ctx = context(tokenizer)
        Vocabulary(minimum=minimum).attach(model, ctx)
        unknown = sum(ctx.tokenizer(text)["input_ids"].count(ctx.tokenizer.unk_token_id) for text in TEXTS)
        assert unknown - lost == (1 if minimum == 2 else 0)  # "and", too


def test_a_new_vocabulary_starts_from_the_old_rows(model, tokenizer):
    ctx = context(tokenizer)
    made = Vocabulary(train=48).attach(model, ctx)
    assert made.blueprint.embeddings.vocabulary == len(ctx.tokenizer) <= 48
    assert made.blueprint.embeddings.pad_id == ctx.tokenizer.pad_token_id
    table, rows = (each.encoder.embeddings.word.weight for each in (model, made))
    old, new = tokenizer.get_vocab(), ctx.tokenizer.get_vocab()
    shared = old.keys() & new.keys()
    assert {"[PAD]", "[CLS]", "the", "was", "."} <= shared
    for token in shared:
        assert torch.equal(rows[new[token]], table[old[token]]), token
    same = "was the a ."
    assert torch.equal(logits(made, ctx.tokenizer, [same]), logits(model, tokenizer, [same]))


def test_too_small_a_vocabulary_is_refused_in_a_line(model, tokenizer):
    with pytest.raises(RecipeError, match=r"embed/vocabulary: train=20 must be at least \d+, its special tokens"):
        Vocabulary(train=20).attach(model, context(tokenizer))


class Look(Method):
    """Remembers its context."""

    cite: ClassVar[str] = "a test"
    seen: ClassVar[list] = []

    def finish(self, model, ctx):
        self.seen.append(ctx)
        return model


@pytest.fixture
def data(tiny_rows):
    rows = [tasks.from_records(tiny_rows("text-classification", n, s), split="rows") for n, s in ((24, 1), (12, 2))]
    return Data(tasks.with_labels(tasks.resolve("text-classification", max_length=32), rows[0]), *rows)


def run_of(place, data, tokenizer, model, *, resume=False):
    folder = RunFolder.open(place, {}, resume=resume)
    return Run(folder, data, tokenizer, 0, lambda line: None, model)


def staged(*methods, **fields):
    return Stage(name="only", methods=(*((m.__module__, m) for m in methods), ("look", Look())), **fields)


def test_later_stages_and_a_resumed_run_read_with_the_tokenizer_that_was_left(data, tokenizer, model, tmp_path):
    first, second = staged(Vocabulary()), staged(Logits(alpha=1.0), train=TRAIN)
    run = run_of(tmp_path / "run", data, tokenizer, model)
    trimmed, report = run_stage(run, first, 1, model, model)
    small = run.current
    assert report["vocabulary"] == len(small) < len(tokenizer)
    run_stage(run, second, 2, trimmed, model)
    assert Look.seen[-1].tokenizer is small
    assert Look.seen[-1].teacher_tokenizer is tokenizer
    saved = artifact.load(tmp_path / "run/stages/02-only/model")
    assert saved.tokenizer.get_vocab() == small.get_vocab()
    again = run_of(tmp_path / "run", data, tokenizer, model, resume=True)
    run_stage(again, first, 1, model, model)
    assert again.current.get_vocab() == small.get_vocab()
    run_stage(again, staged(start="pretrained"), 3, trimmed, model)
    assert again.current is tokenizer
    assert Look.seen[-1].tokenizer is tokenizer


def test_the_teacher_reads_its_own_tokens(data, tokenizer, model, tmp_path):
    ctx = context(tokenizer, data.train.column("text"))
    Vocabulary(train=60).attach(model, ctx)
    ctx.teacher_tokenizer = tokenizer
    encoded = tasks.encode(data.task, data.train, ctx.tokenizer, training=True)
    read_by_both(encoded, Logits(alpha=1.0).objectives(ctx), ctx, "here")
    collate = collate_for(ctx.tokenizer, tokenizer)
    batch = collate([encoded[i] for i in range(6)])
    texts = data.train.column("text")[:6]
    expected = tokenizer(texts, padding=True, return_tensors="pt")
    found = model_inputs(batch, teacher=True)
    assert found.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert not torch.equal(batch["input_ids"], batch["teacher_input_ids"])
    live, cached = Teacher(model), Teacher(model, cache=tmp_path)
    assert cached.prepare(encoded, range(len(encoded)), collate)
    torch.testing.assert_close(cached(batch).logits, live(batch).logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(live(batch).logits, logits(model, tokenizer, texts), atol=1e-6, rtol=0)


def test_terms_without_a_teacher_need_no_second_reading(data, tokenizer, model):
    ctx = context(tokenizer)
    Vocabulary().attach(model, ctx)
    ctx.teacher_tokenizer = tokenizer
    encoded = tasks.encode(data.task, data.train, ctx.tokenizer, training=True)
    read_by_both(encoded, [TaskLoss()], ctx, "here")
    assert "teacher_input_ids" not in encoded[0]
    ctx.teacher_tokenizer = ctx.tokenizer
    read_by_both(encoded, Logits(alpha=1.0).objectives(ctx), ctx, "here")
    assert "teacher_input_ids" not in encoded[0]


def recipe(*stages):
    return Recipe.parse({"name": "test", "stages": [{"name": f"s{i}", **each} for i, each in enumerate(stages)]})


TRIM, HIDDEN_STATES, LOGITS = {"embed/vocabulary": {}}, {"distill/hidden": {}}, {"distill/logits": {}}


@pytest.mark.parametrize(
    "stages",
    [
        [{"use": [TRIM, HIDDEN_STATES], "train": {}}],
        [{"use": [TRIM]}, {"use": [HIDDEN_STATES], "train": {}}],
        [{"use": [TRIM, HIDDEN_STATES], "train": {}, "teacher": "previous"}],
    ],
)
def test_comparing_tokens_of_two_vocabularies_is_refused_before_anything_is_loaded(stages):
    words = r"compares tokens with a teacher that reads others, by embed/vocabulary; leave it out"
    with pytest.raises(RecipeError, match=rf"^test stage s\d, distill/hidden: {words}$"):
        recipe(*stages).check()


def test_guesses_of_a_teacher_with_another_vocabulary_are_refused():
    stage = {"use": [TRIM, LOGITS], "train": {}, "data": "unlabelled", "teacher": "pretrained"}
    with pytest.raises(RecipeError, match="test stage s0, data=unlabelled: compares tokens with a teacher"):
        recipe(stage).check()


@pytest.mark.parametrize(
    "stages",
    [
        [{"use": [HIDDEN_STATES], "train": {}}, {"use": [TRIM]}],
        [{"use": [TRIM]}, {"use": [HIDDEN_STATES], "train": {}, "teacher": "previous"}],
        [{"use": [TRIM]}, {"use": [HIDDEN_STATES], "train": {}, "start": "pretrained"}],
        [{"use": [TRIM, LOGITS], "train": {}}],
    ],
)
def test_what_compares_the_same_tokens_or_whole_texts_passes(stages):
    recipe(*stages).check()


def test_answers_for_each_token_are_refused_by_the_task(tiny_rows):
    rows = tasks.from_records(tiny_rows("token-classification", 4, 1), split="rows")
    data = Data(tasks.with_labels(tasks.resolve("token-classification"), rows), rows, rows)
    follows = recipe({"use": [TRIM, LOGITS], "train": {}})
    words = "a teacher's answers for each token are of other tokens, by embed/vocabulary"
    with pytest.raises(RecipeError, match=f"test stage s0, task token-classification: {words}"):
        check_needs(follows, data)
    check_needs(recipe({"use": [TRIM], "train": {}}), data)


def test_a_term_that_no_recipe_could_tell_is_refused_before_training(data, tokenizer, model, tmp_path):
    states = find("quantize/ternary")()
    run = run_of(tmp_path / "run", data, tokenizer, model)
    with pytest.raises(RecipeError, match=r"^stage only: \w+ compares tokens with a teacher that reads others"):
        run_stage(run, staged(Vocabulary(), states, train=TRAIN), 1, model, model)
