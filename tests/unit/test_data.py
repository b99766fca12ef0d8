"""A budget of labels: exact, alike for every student, and nothing but text beyond it.  Rows that no stage reads."""

import json

import pytest

from bertpress import tasks
from bertpress.data import Data, load_data, with_budget
from bertpress.errors import DataError
from bertpress.recipe import Recipe
from bertpress.runner import Request, press

ROWS = tasks.from_records([{"text": f"text {i}", "label": ("no", "yes")[i % 2]} for i in range(40)])
TASK = tasks.with_labels(tasks.resolve("text-classification"), ROWS)
DATA = Data(TASK, ROWS, ROWS)


def test_the_budget_is_exact_and_the_others_have_no_label():
    some = with_budget(DATA, 10, seed=3)
    assert len(some.train) == 10
    assert None not in some.train.columns["label"]
    assert some.rest.columns["label"] == [None] * 30
    assert sorted(some.train.columns["text"] + some.rest.columns["text"]) == sorted(ROWS.columns["text"])
    assert some.validation is ROWS


def test_the_rows_depend_on_the_seed_alone():
    chosen = [with_budget(DATA, 10, seed).train.columns["text"] for seed in (3, 3, 4)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_rows_to_select_on_are_cut_from_the_budget():
    rest, held_out = with_budget(DATA, 10, seed=3).selection(0)
    assert (len(rest), len(held_out)) == (9, 1)


def test_budgets_that_cannot_be_kept():
    with pytest.raises(DataError, match=r"^memory: labels=41 must be at most its 40 rows$"):
        with_budget(DATA, 41, 0)
    one = Data(TASK, ROWS.subset([0, 2, 4]), ROWS)
    with pytest.raises(DataError, match="all 2 rows have label 'no'; at least 2 labels are needed"):
        with_budget(one, 2, 0)
    text = tasks.from_records([{"text": "a"}])
    with pytest.raises(DataError, match=r"^task masked-lm: has no labels, so labels=2 means nothing$"):
        with_budget(Data(tasks.resolve("masked-lm"), text, text), 2, 0)


def loaded(model, folder, stages, **given):
    """What a run with this recipe reads."""
    recipe = Recipe.parse({"name": "r", "stages": stages, "export": []})
    return load_data(Request(model, recipe, tasks.resolve("text-classification"), folder, **given))


PLAIN, EXITS = ([{"name": "a", "use": [{method: {}}]}] for method in ("quantize/int8", "exit/deebert"))


def test_the_speed_of_exits_is_chosen_on_rows_that_no_stage_reads(tiny_model, tmp_path):
    given = {"train": ROWS, "validation": ROWS}
    whole, cut = (loaded(tiny_model, tmp_path, stages, **given) for stages in (PLAIN, EXITS))
    assert (whole.train, whole.held_out) == (ROWS, None)
    assert (len(cut.train), len(cut.held_out)) == (36, 4)
    assert sorted(cut.train.columns["text"] + cut.held_out.columns["text"]) == sorted(ROWS.columns["text"])
    own = loaded(tiny_model, tmp_path, EXITS, held_out=ROWS, **given)
    assert (own.train, own.held_out) == (ROWS, ROWS)
    many = tasks.from_records([{"text": f"text {i}", "label": ("no", "yes")[i % 2]} for i in range(40_000)])
    assert len(loaded(tiny_model, tmp_path, EXITS, train=many, validation=ROWS).held_out) == 2000


def test_a_split_of_their_own_is_read_in_their_place(tiny_model, tiny_data, tmp_path):
    folder = tiny_data()
    before = loaded(tiny_model, tmp_path, EXITS, data=folder)
    rows = [{"text": f"other {i}", "label": i % 2} for i in range(6)]
    (folder / "selection.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    after = loaded(tiny_model, tmp_path, EXITS, data=folder)
    assert len(after.train) == len(before.train) + len(before.held_out)
    assert after.held_out.columns["text"] == [row["text"] for row in rows]


def test_a_model_that_comes_with_exits_needs_them_too(tiny_model, tmp_path):
    given = {"train": ROWS, "validation": ROWS}
    recipe = Recipe.parse({
        "name": "r", "export": [], "fine_tune": {"epochs": 1, "max_steps": 1},
        "stages": [{"name": "exits", "use": [{"exit/deebert": {}}], "train": {"epochs": 1, "max_steps": 1}}],
    })  # fmt: skip
    made = press(Request(tiny_model, recipe, tasks.resolve("text-classification"), tmp_path / "run", **given)).artifact
    assert made.manifest.exits["rows"] == 4
    assert len(loaded(made.path, tmp_path, PLAIN, **given).held_out) == 4


def test_teacher_and_students_see_the_labels_of_the_budget_alone(tiny_model, tiny_data, tmp_path, monkeypatch):
    """What a stage trains on, label by label, by what comes to the loss of the task."""
    seen, plain = [], tasks.loss

    def loss(task, logits, batch):
        labels = batch["labels"]
        seen.extend(zip([tuple(row[row > 0].tolist()) for row in batch["input_ids"]], labels.tolist(), strict=True))
        return plain(task, logits, batch)

    monkeypatch.setattr(tasks, "loss", loss)
    train = {"epochs": 1, "precision": "float32"}
    stages = [
        {"name": "taught", "use": [{"distill/logits": {"alpha": 0.5}}], "train": train},
        {"name": "plain", "train": train},
    ]
    recipe = Recipe.parse({"name": "r", "labels": 12, "fine_tune": train, "stages": stages, "export": []})
    made = press(Request(tiny_model, recipe, tasks.resolve("text-classification"), tmp_path / "run", tiny_data()))
    assert [stage["train"]["examples"] for stage in made.stages] == [48, 12]
    labelled = [text for text, label in seen if label != -100]
    assert len(labelled) == 3 * 12  # the teacher's, and those of both stages
    assert len(set(labelled)) == len(set(labelled[:12]))
    assert len(seen) == 12 + 48 + 12
