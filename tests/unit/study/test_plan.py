"""What a study may say, and every mistake in one line before anything runs."""

from copy import deepcopy
from pathlib import Path

import pytest

from bertpress.errors import EngineError, RecipeError, UserError
from bertpress.study.jobs import model_in, prepare, run_jobs, teacher_jobs, tidy
from bertpress.study.plan import Plan, slug

ROOT = Path(__file__).parents[3]
SMALLEST = {"name": "mine", "models": ["some/bert"], "tasks": ["sst2"], "rows": ["gobo"]}


def plan(**changes):
    return Plan.parse({**deepcopy(SMALLEST), **changes}, "mine.yaml")


def test_short_forms_mean_long_ones():
    found = plan(
        profile="small", rows=["gobo", {"recipe": "gobo", "label": "4 bits", "set": {"stages.0.use.0.bits": 4}}]
    )
    assert (found.models[0].name, found.models[0].path) == ("bert", "some/bert")
    assert [row.label for row in found.rows] == ["gobo", "4 bits"]
    assert [row.profile for row in found.rows] == ["small", "small"]
    (_, _, method), *_ = found.rows[1].resolve().methods()
    assert method.bits == 4
    assert found.rows[1].resolve().export == ()
    written = plan(rows=[{"recipe": {"name": "own", "stages": [{"use": ["prune/heads"]}]}}])
    assert (written.rows[0].label, written.rows[0].profile) == ("own", None)


def test_published_rows_stand_beside_their_recipes():
    rows = [{"recipe": "gobo"}, {"recipe": "linear-ptq"}, {"recipe": "gobo", "label": "other", "published": ""},
            {"recipe": "linear-ptq", "label": "Q", "published": "Q-BERT"}]  # fmt: skip
    assert [row.row_of_table_1() for row in plan(rows=rows).rows] == ["GOBO", None, None, "Q-BERT"]


def test_a_whole_table_is_run_before_the_next_seed():
    rows = ["gobo", {"recipe": "linear-ptq", "tasks": ["mrpc"]}]
    found = plan(models=["a", "b"], tasks=["sst2", "mrpc"], rows=rows, seeds=[3, 5])
    runs = [(model.name, task.name, row.label, seed) for model, task, row, seed in found.runs()]
    assert runs[:3] == [("a", "sst2", "gobo", 3), ("a", "mrpc", "gobo", 3), ("a", "mrpc", "linear-ptq", 3)]
    assert len(runs) == 12
    assert [seed for *_, seed in runs] == [3] * 6 + [5] * 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": []}, "mine.yaml: rows must be a list of at least one"),
        ({"rows": [3]}, "mine.yaml row 1: must be a mapping, not 3"),
        ({"rows": [{"recipe": "gobo", "seed": 1}]}, 'mine.yaml row 1: unknown field "seed"; did you mean "set"?'),
        ({"rows": ["gobo", "gobo"]}, "mine.yaml, rows: 'gobo' is there twice"),
        ({"rows": [{"recipe": "gobo", "label": "a b"}, {"recipe": "gobo", "label": "a, b"}]},
         "mine.yaml, rows: 'a-b' is there twice"),
        ({"rows": [{"recipe": "gobo", "tasks": ["sst"]}]},
         'mine.yaml row "gobo", tasks: unknown "sst"; did you mean "sst2"?'),
        ({"rows": [{"recipe": "gobo", "published": "GOB"}]},
         'mine.yaml row "gobo", published: unknown "GOB"; did you mean "GOBO"?'),
        ({"limits": {"minutes": 0}}, "mine.yaml, limits: minutes=0 must be in (0, 100000]"),
        ({"limits": {"memory_gib": -1}}, "mine.yaml, limits: memory_gib=-1 must be in (0, 100000]"),
        ({"timing": {"together": 0}}, "mine.yaml, timing: together=0 must be in [1, 1000]"),
        ({"teacher": {"epochs": 0}}, "mine.yaml, teacher: epochs=0 must be in (0, 10000]"),
        ({"averaged": ["sst"]}, 'mine.yaml, averaged: unknown "sst"; did you mean "sst2"?'),
        ({"seeds": [0, 0]}, "mine.yaml, seeds: 0 is there twice"),
        ({"seeds": [-1]}, "mine.yaml, seeds: -1 must be in [0, inf)"),
        ({"colour": 1}, 'mine.yaml: unknown field "colour"; '),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes, said):
    with pytest.raises(RecipeError) as caught:
        plan(**changes)
    assert str(caught.value).startswith(said)


def test_what_is_not_there_is_found_before_anything_runs(tmp_path, tiny_model):
    models = [str(tiny_model)]
    for changes, said in (
        ({"rows": ["gobbo"]}, 'study mine row "gobbo": unknown recipe "gobbo"; did you mean "gobo"?'),
        ({"data": str(tmp_path / "no")}, f"study mine, data: {tmp_path}/no is no folder"),
        ({"models": [str(tmp_path)]}, str(tmp_path)),
        ({"tasks": ["sst22"]}, ""),
    ):
        with pytest.raises(UserError) as caught:
            plan(**{"models": models, **changes}).check()
        assert str(caught.value).startswith(said)
        assert "\n" not in str(caught.value)
    plan(models=models, data=str(tmp_path)).check()


def test_engines_that_are_not_installed_are_named(monkeypatch):
    found = plan(timing={"engines": ["openvino"]})
    monkeypatch.setitem(Plan.check.__globals__, "available", lambda: ["torch"])
    with pytest.raises(EngineError, match=r"study mine, timing.engines: openvino is not installed"):
        found.check()


def test_files_and_changes(tmp_path):
    place = tmp_path / "mine.yaml"
    place.write_text("name: mine\nmodels: [bert]\ntasks: [sst2]\nrows: [gobo]\nlimits: {}\n", encoding="utf-8")
    assert Plan.load(place, ["limits.minutes=5", "data=somewhere"]).limits.minutes == 5
    with pytest.raises(UserError, match="there is no such study"):
        Plan.load(tmp_path / "no.yaml")
    place.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine.yaml: must be a mapping with models, tasks and rows, not list"):
        Plan.load(place)


@pytest.mark.parametrize(
    "path", [*ROOT.glob("studies/*.yaml"), ROOT / "examples/study.yaml"], ids=lambda path: path.name
)
def test_shipped_studies_are_sound(path):
    found = Plan.load(path)
    for row in found.rows:
        row.resolve().check()
    for task in found.tasks:
        task.resolve()


def test_jobs_are_kept_while_they_are_the_same(tmp_path, tiny_model):
    mine = plan(models=[str(tiny_model)], rows=[{"recipe": "gobo", "label": "GOBO, 3 bits"}], seeds=[0, 1])
    (teacher,) = teacher_jobs(mine, tmp_path)
    first, second = jobs = run_jobs(mine, tmp_path)
    assert first == tmp_path / "runs/tiny-bert/sst2/gobo-3-bits-0"
    assert jobs[second].teacher == str(model_in(teacher))
    prepare(first, jobs[first])
    prepare(first, run_jobs(plan(models=[str(tiny_model)], rows=[{"recipe": "gobo", "label": "GOBO, 3 bits",
                                                                  "published": ""}]), tmp_path)[first])  # fmt: skip
    changed = plan(models=[str(tiny_model)], rows=[{"recipe": "gobo", "label": "GOBO, 3 bits",
                                                    "set": {"stages.0.use.0.bits": 4}}])  # fmt: skip
    with pytest.raises(UserError, match=r"holds a run with recipe.stages.0.use.0.quantize/gobo.bits=3, not 4"):
        prepare(first, run_jobs(changed, tmp_path)[first])


def test_what_only_the_run_needed_is_removed(tmp_path):
    for name in ("model", "stages/01-one", "teacher"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run/run.json").write_text("{}")
    tidy(tmp_path)
    tidy(tmp_path)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model", "run.json"]


def test_labels_become_folders():
    assert slug("GOBO, 3 bits (50 %)") == "gobo-3-bits-50"
    assert "/" not in slug("../../etc")
