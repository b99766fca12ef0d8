"""The end of a search: finalists on the clock, the winner, and only then the validation split."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from bertpress import __version__, artifact, tasks
from bertpress.artifact.folder import staged
from bertpress.measure.bench import Candidate as Timed
from bertpress.measure.bench import interleave
from bertpress.measure.environment import environment, usable_cores
from bertpress.outcome import texts_of
from bertpress.report.search import search_page
from bertpress.search.aim import Aim, Kind, Tried, finalists, probability
from bertpress.search.rows import timed_rows
from bertpress.search.setting import Setting
from bertpress.study.pareto import dominated
from bertpress.training.progress import Meter

if TYPE_CHECKING:
    from bertpress.search.clock import Clock
    from bertpress.search.conduct import Course
    from bertpress.search.rows import SearchRows

TIMED = "measured/bits.json"
FINALISTS = 3
ROUNDS = 15


def timed(setting: Setting, names: Sequence[str]) -> dict[str, Any]:
    """The teacher in PyTorch and some candidates on the engine, by turns, on texts of the rows chosen on."""
    whole = artifact.load(setting.teacher, verify=False)
    texts = texts_of(setting.task, timed_rows(whole, setting.task, setting.chosen_on, setting.tokens, setting.seed))
    candidates = [
        Timed("teacher", setting.teacher, "torch"),
        *(Timed(name, setting.place(name) / "model", setting.engine) for name in names),
    ]
    found = interleave(
        candidates, texts, threads=setting.threads or usable_cores(), rounds=ROUNDS, throughput_texts=0,
        max_length=setting.task.max_length, progress=Meter("timing").advance,
    )  # fmt: skip
    return {"candidates": found}


def end(course: Course, rows: SearchRows, clock: Clock) -> dict[str, Any]:
    """Time the finalists, choose the winner, score it on validation, write what is to be read."""
    setting, aim = course.setting, course.aim
    chosen = finalists(course.tried, aim, FINALISTS)
    names = list(dict.fromkeys(["bits", *(each.name for each in chosen)]))
    setting.say(f"timing {', '.join(names)}")
    measured = setting.folder.once(f"measured/{'+'.join(names)}.json", lambda: timed(setting, names))
    clocked = {figures["name"]: figures for figures in measured["candidates"]}
    winner = winner_of(chosen, clocked, aim)
    _copy(setting, winner)
    setting.say(f"the winner is {winner.name}; scoring it on validation")
    reported = setting.folder.once(f"measured/validation-{winner.name}.json", lambda: _reported(setting, rows, winner))
    found = {
        "bertpress": __version__,
        "command": setting.command,
        "seed": setting.seed,
        "task": setting.task.model_dump(mode="json"),
        "engine": setting.engine,
        "tokens": course.tokens,
        "aim": aim.model_dump(mode="json"),
        "budget": {"seconds": clock.budget, "spent": round(clock.spent, 1)},
        "rows": {
            "fit": len(setting.fit),
            "chosen_on": len(setting.chosen_on),
            "split": setting.chosen_on.split,
            "validation": reported.pop("rows"),
        },
        "environment": environment(threads=setting.threads, seed=setting.seed),
        "teacher": {**clocked["teacher"], **reported.pop("teacher")},
        "candidates": [_entry(each, clocked, aim) for each in sorted(course.tried, key=_order)],
        "front": front(course.tried),
        "winner": {**_entry(winner, clocked, aim), "validation": reported},
        "sure": sure(winner, reported, aim),
    }
    made = artifact.load(setting.folder / "model", verify=False)
    made.record({"artifact": reported, "environment": found["environment"]})
    setting.folder.write("search.json", found)
    setting.folder.write("search.html", search_page(found))
    return found


def winner_of(chosen: Sequence[Tried], clocked: dict[str, dict[str, Any]], aim: Aim) -> Tried:
    """The finalist of least measured latency or memory, or of fewest bytes; of equal ones that of least loss."""

    def key(each: Tried) -> tuple[float, float]:
        figures = clocked[each.name]
        costs = {"latency": figures["latency_ms"]["median"], "memory": figures["peak_memory_bytes"], "size": each.price}
        return costs[aim.target], each.lost

    return min(chosen, key=key)


def front(tried: Sequence[Tried]) -> list[str]:
    """Names of the candidates that no other beats in cost and loss, the cheapest first."""
    made = sorted((each for each in tried if each.drop is not None), key=lambda each: (each.price, each.lost))
    beaten = dominated([(each.price, each.lost) for each in made])
    return [each.name for each, out in zip(made, beaten, strict=True) if not out]


def sure(winner: Tried, reported: dict[str, Any], aim: Aim) -> dict[str, Any]:
    """How sure it is that the limit is kept, and what the validation split says to it."""
    drop = reported["drop"]
    if drop["high"] <= aim.max_drop:
        verdict = "the whole interval on validation keeps the limit"
    elif drop["value"] <= aim.max_drop:
        verdict = "validation keeps the limit, but its interval reaches beyond"
    else:
        verdict = "validation does not keep the limit"
    return {"probability": round(probability(winner.drop, aim.max_drop), 3), "holds": verdict}


def _entry(tried: Tried, clocked: dict[str, dict[str, Any]], aim: Aim) -> dict[str, Any]:
    plain = tried.model_dump(mode="json")
    kept = probability(tried.drop, aim.max_drop)
    return {**plain, "probability": round(kept, 3), "measured": clocked.get(tried.name)}


def _order(each: Tried) -> tuple[int, int, int]:
    """The same however often the search was stopped; what has no trial keeps its order."""
    return get_args(Kind).index(each.kind), each.rung, each.trial or 0


def _copy(setting: Setting, winner: Tried) -> None:
    """The winner's artifact at its place; one of an earlier end is replaced."""
    with staged(setting.folder / "model", overwrite=True) as partial:
        shutil.copytree(setting.place(winner.name) / "model", partial, dirs_exist_ok=True)


def _reported(setting: Setting, rows: SearchRows, winner: Tried) -> dict[str, Any]:
    """Score and drop on the validation split, of the winner and of the teacher."""
    validation = rows.validation()
    truth = tasks.references(setting.task, validation)
    before = setting.answers(artifact.load(setting.teacher), validation, "torch")
    after = setting.answers(setting.made(winner.name), validation, setting.engine)
    return {
        "metric": setting.score(after, truth),
        "drop": setting.drop(before, after, truth).model_dump(mode="json"),
        "rows": len(validation),
        "teacher": {"metric": setting.score(before, truth)},
    }
