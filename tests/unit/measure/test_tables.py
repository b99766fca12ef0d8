"""The tables of the benchmarks: every row is a recipe that resolves, cells are means, earlier results are kept."""

import argparse
import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def load():
    """A function from a benchmark's name to its module."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    for name in ("comparison", "quantize", "prune", "distill"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["quantize", "prune", "distill"])
def test_every_row_resolves_and_has_a_folder_of_its_own(load, name):
    module, comparison = load(name), load("comparison")
    rows = module.ROWS | getattr(module, "SENSITIVITY", {})
    options = argparse.Namespace(out=Path("runs"))
    places = {comparison.place_of(options, row, "sst2", 0) for row in rows}
    assert len(places) == len(rows)
    for row in rows.values():
        comparison.recipe_of(row).check()


def entry(name="a", task="sst2", seed=0, metric=90.0, drop=1.0, seconds=10.0):
    return {
        "name": name, "task": task, "seed": seed, "metric": {"value": metric}, "processor_seconds": seconds,
        "drop": {"value": drop, "low": drop - 1, "high": drop + 1},
    }  # fmt: skip


def test_a_cell_is_the_mean_over_the_seeds_with_the_outermost_bounds(load):
    entries = [entry(), entry(seed=1, metric=88.0, drop=3.0, seconds=20.0), entry(name="b", drop=50.0)]
    assert load("comparison").scored(entries, "a", "sst2") == "89.0, +2.0 [0.0, 4.0], 15, 2 seeds"
    assert load("comparison").scored(entries, "b", "mrpc") == "not run"


def test_rows_of_earlier_commands_stay_and_newer_runs_replace_theirs(load, tmp_path):
    options = argparse.Namespace(out=tmp_path / "runs", results=tmp_path / "results.json")
    options.results.write_text(json.dumps({"entries": [entry("old"), entry("a", metric=1.0)]}))
    place = tmp_path / "runs/sst2/a-0"
    place.mkdir(parents=True)
    (place / "entry.json").write_text(json.dumps(entry("a", metric=2.0)))
    found = {each["name"]: each["metric"]["value"] for each in load("comparison").entries_of(options)}
    assert found == {"old": 90.0, "a": 2.0}


def test_claims_are_weighed_on_runs_that_have_all_rows_and_against_the_best_of_them(load):
    module = load("distill")
    scores = {
        "logits, hidden states, attention": 90.0,
        "logits, MSE": 85.0,
        "hidden states": 88.0,
        "attention scores": 80.0,
    }
    runs = [(task, seed) for task in ("sst2", "mrpc") for seed in range(3)]
    entries = [entry(name, *run, value) for run in runs for name, value in scores.items()]
    attention, combining, general = module.verdicts([*entries, entry("unlabelled text first", metric=91.0)])
    assert (attention["pairs"], attention["verdict"]) == (0, "not enough runs")
    assert (combining["pairs"], combining["value"], combining["verdict"]) == (6, 2.0, "holds")
    assert (general["pairs"], general["value"], general["verdict"]) == (1, 1.0, "not enough runs")
