"""Runs that another study has done are taken over where they are the same, and from the same teacher alone."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from studied import ENVIRONMENT, entry

from bertpress.errors import UserError
from bertpress.runfolder import RunFolder
from bertpress.study import outputs
from bertpress.study.jobs import ENTRY, TIMING, run_jobs, teacher_jobs
from bertpress.study.known import Known, needed, recall
from bertpress.study.plan import Plan

PLAN = {"name": "mine", "models": ["some/minilm"], "tasks": ["sst2", "mrpc"], "rows": ["gobo", "int8"]}
MADE = {"metric": {"name": "accuracy", "value": 91.00001, "low": 89.0, "high": 93.0}, "vocabulary": {}}


def made_up(plan, label, task):
    """A finished entry as study.json keeps it, of the recipe that the plan has under this label."""
    row = next(row for row in plan.rows if row.label == label)
    found = entry(label, task=task, model="minilm")
    found["baseline"]["metric"] |= {"low": 89.0, "high": 93.0}
    recipe = json.loads(json.dumps(row.resolve().to_dict()))
    return {**found, "start": row.start, "recipe": recipe, "folder": "../../elsewhere"}


@pytest.fixture
def plan():
    return Plan.parse(deepcopy(PLAN))


@pytest.fixture
def written(tmp_path, plan):
    """Writes a study.json with these entries."""

    def write(*entries, name="old.json", tasks=None, **more):
        told = {"tasks": [task.model_dump(mode="json") for task in (tasks or plan.tasks)]}
        path = tmp_path / name
        path.write_text(json.dumps({"plan": told, "environment": ENVIRONMENT, "entries": entries, **more}))
        return path

    return write


def names(known, out):
    return sorted(str(place.relative_to(out / "runs")) for place in known.entries)


def test_runs_that_are_the_same_are_known(plan, written, tmp_path):
    runs = run_jobs(plan, tmp_path)
    file = written(made_up(plan, "gobo", "sst2"), made_up(plan, "int8", "mrpc"), profiles={"minilm": [{"a": 1}]})
    known = recall([file], runs)
    assert names(known, tmp_path) == ["minilm/mrpc/int8-0", "minilm/sst2/gobo-0"]
    assert {each["source"] for each in known.entries.values()} == {str(file)}
    assert known.profiles == {"minilm": [{"a": 1}]}


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"start": "pretrained"}, {"label": "other"}, {"model": "mpnet"}, {"recipe": {"name": "gobo"}}],
    ids=lambda change: next(iter(change)),
)
def test_what_differs_is_run(plan, written, tmp_path, change):
    assert not recall([written(made_up(plan, "gobo", "sst2") | change)], run_jobs(plan, tmp_path)).entries


def test_other_limits_of_the_data_are_another_task(plan, written, tmp_path):
    less = Plan.parse({**deepcopy(PLAN), "tasks": [{"name": "sst2", "validation_limit": 100}, "mrpc"]})
    moved = Plan.parse({**deepcopy(PLAN), "tasks": [{"name": "sst2", "data": "elsewhere"}, "mrpc"]})
    runs, found = run_jobs(plan, tmp_path), made_up(plan, "gobo", "sst2")
    assert not recall([written(found, tasks=less.tasks)], runs).entries
    assert recall([written(found, tasks=moved.tasks)], runs).entries


def test_the_first_file_counts_and_what_was_done_here_before_all(plan, written, tmp_path):
    runs = run_jobs(plan, tmp_path)
    one = written(made_up(plan, "gobo", "sst2"), made_up(plan, "int8", "sst2"), name="one.json")
    two = written(made_up(plan, "gobo", "sst2"), made_up(plan, "gobo", "mrpc"), name="two.json")
    here = next(place for place, job in runs.items() if (job.row.label, job.task.name) == ("int8", "sst2"))
    RunFolder(here).write(ENTRY, {})
    known = recall([one, two], runs)
    assert names(known, tmp_path) == ["minilm/mrpc/gobo-0", "minilm/sst2/gobo-0"]
    assert [Path(each["source"]).name for each in known.entries.values()] == ["one.json", "two.json"]


def test_only_the_teachers_of_other_runs_are_needed(plan, written, tmp_path):
    runs, teachers = run_jobs(plan, tmp_path), teacher_jobs(plan, tmp_path)
    known = recall([written(made_up(plan, "gobo", "sst2"), made_up(plan, "int8", "sst2"))], runs)
    assert [job.task.name for job in needed(teachers, runs, known).values()] == ["mrpc"]
    assert len(needed(teachers, runs, Known())) == 2


def test_runs_of_another_teacher_are_refused(plan, written, tmp_path):
    runs, teachers = run_jobs(plan, tmp_path), teacher_jobs(plan, tmp_path)
    known = recall([written(made_up(plan, "gobo", "sst2"))], runs)
    place = next(place for place, job in teachers.items() if job.task.name == "sst2")
    known.check_teachers(teachers)  # not made yet
    RunFolder(place).write(ENTRY, MADE)
    known.check_teachers(teachers)
    RunFolder(place).write(ENTRY, {**MADE, "metric": {**MADE["metric"], "value": 92.0}})
    with pytest.raises(UserError, match=r"old.json: gobo-0 was compressed .* scores 91.00, not 92"):
        known.check_teachers(teachers)


def test_entries_stand_in_the_order_of_the_plan_in_folders_of_this_study(plan, written, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "environment", lambda **_: {"cpu": {"name": "this one"}})
    runs, teachers = run_jobs(plan, tmp_path), teacher_jobs(plan, tmp_path)
    known = recall([written(made_up(plan, "int8", "sst2"))], runs)
    first = next(place for place, job in runs.items() if (job.row.label, job.task.name) == ("gobo", "sst2"))
    RunFolder(first).write(ENTRY, made_up(plan, "gobo", "sst2"))
    RunFolder(first).write(TIMING, {})
    found = outputs.gathered(plan, teachers, runs, known, {}, "a command")
    assert [(each["label"], each["device"], each["folder"]) for each in found["entries"]] == [
        ("gobo", "this one", "runs/minilm/sst2/gobo-0"), ("int8", "a processor", "runs/minilm/sst2/int8-0"),
    ]  # fmt: skip
    assert [line["device"] for line in found["table"] if line["origin"] == "measured"] == [
        "this one, a processor", "this one", "a processor",
    ]  # fmt: skip
    settings = [each["recipe"] for each in found["entries"]]
    assert settings == [row.resolve().to_dict() for row in plan.rows]
    assert settings[0]["fine_tune"]["epsilon"] == 1e-8
    teacher = {front["cost"]: front["teacher"] for front in found["fronts"]}
    assert teacher == {"packed": 100_000, "size": 100_000, "latency": 10.0}


def test_what_is_no_score_is_refused(plan, written, tmp_path):
    found = made_up(plan, "gobo", "sst2")
    found["artifact"]["drop"]["value"] = float("nan")
    with pytest.raises(UserError, match=r"old.json: is no study.json; entries.0.artifact.drop.value: Input should be"):
        recall([written(found)], run_jobs(plan, tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no such study.json, or it cannot be read"),
        ("[" * 100_000, "there is no such study.json, or it cannot be read"),
        ("[]", "is no study.json; the whole: Input should be"),
        ("{}", "is no study.json; plan: Field required"),
        ('{"plan": {"tasks": [{"name": [1]}]}}', "is no study.json; plan.tasks.0.name: Input should be"),
        (
            '{"plan": {"tasks": []}, "environment": {"cpu": {"name": "x"}}, "entries": [{"label": "a"}]}',
            "entries.0.model: Field",
        ),
    ],
)
def test_a_file_that_is_no_study_is_told_in_a_line(plan, tmp_path, text, said):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        recall([path], run_jobs(plan, tmp_path))
