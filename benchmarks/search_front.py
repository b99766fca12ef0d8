"""What a search finds in half an hour, and whether its front holds against recipes that are run by hand.

    python benchmarks/search_front.py search --data DIR [--task sst2] [--budget 30m] [--max-drop 1] [--threads 2]
    python benchmarks/search_front.py recipes --data DIR [--only quick tiny fast balanced] [--profile small]
    python benchmarks/search_front.py front --data DIR [--threads 2]

``search``, on a quiet machine, is ``bertpress search`` on MiniLM-L6 as it is, which is fine-tuned within the budget.
``recipes`` compresses the teacher that the search made with each recipe, as it stands or in a profile; runs that were
stopped go on.  ``front``, on a quiet machine, times the winner, the front and the recipes by turns with 8-bit integers
alone, on OpenVINO at batch 1, and scores all on the whole validation split.  The front holds against a recipe if one of
it is no slower, within the intervals of the ratios, and no less right, within the paired 95 % interval.
Writes results/search.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comparison import CACHE, save_timings, timed

from bertpress import api, artifact, tasks
from bertpress.artifact.predict import logits_of
from bertpress.encoder.tokenizers import read_tokenizer
from bertpress.engines import load_engine
from bertpress.measure.environment import usable_cores
from bertpress.outcome import BATCH
from bertpress.recipe import Recipe
from bertpress.runner import Request, press
from bertpress.search.rows import median_tokens

SPEED_BAR = 1.3
RECIPES = ("quick", "tiny", "fast", "balanced")
ANCHOR = "bits"


def told(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


def search(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The search itself; goes on where it was stopped."""
    model = options.models / options.model
    tokens = served(options)
    command = (
        f"bertpress search {options.model} --task {options.task} --data DIR --max-drop {options.max_drop:g} "
        f"--budget {options.budget} --threads {options.threads} --tokens {tokens} --out runs/search"
    )
    return api.search(
        model, task=options.task, data=options.data, out=place, max_drop=options.max_drop, budget=options.budget,
        threads=options.threads, tokens=tokens, resume=(place / "run.json").is_file(), command=command, say=told,
    )  # fmt: skip


def served(options: argparse.Namespace) -> int:
    """Tokens of the middle one of the validation texts, of which nothing else is read before the winner stands."""
    task = tasks.resolve(options.task)
    rows = tasks.load(task, "validation", options.data)
    return median_tokens(read_tokenizer(options.models / options.model), tasks.with_labels(task, rows), rows)


def recipes(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Seconds of each recipe on the search's teacher."""
    found = {}
    for name in options.only:
        out = options.out / "-".join(filter(None, (options.task, name, options.profile)))
        recipe, again = Recipe.load(name, profile=options.profile), (out / "run.json").is_file()
        task = tasks.resolve(options.task)
        request = Request(place / "teacher/model", recipe, task, out, options.data, resume=again)
        made = press(request, told)
        seconds = sum(stage["seconds"] for stage in made.stages)
        found[name] = {"profile": options.profile, "folder": str(out), "seconds": seconds}
    return found


def front(options: argparse.Namespace, place: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Times and scores of all, and the verdict for each recipe."""
    folders = {ANCHOR: place / "candidates" / ANCHOR / "model", "winner": place / "model"}
    folders |= {name: place / "candidates" / name / "model" for name in known["search"]["front"] if name != ANCHOR}
    folders |= {name: Path(each["folder"]) / "model" for name, each in known.get("recipes", {}).items()}
    times = timed(folders, options.task, options.data, options.threads)
    rows = tasks.load(tasks.resolve(options.task), "validation", options.data)
    answers, found = {}, {}
    teacher = artifact.load(place / "teacher/model")
    assert teacher.task is not None
    truth = tasks.references(teacher.task, rows)
    for name, folder in {"teacher": teacher.path, **folders}.items():
        made = artifact.load(folder)
        runner = load_engine("torch" if name == "teacher" else "openvino", folder, options.threads)
        encoded, logits = logits_of(teacher.task, rows, made.tokenizer, runner, BATCH)
        answers[name] = tasks.predictions(teacher.task, encoded, logits)
        metric = next(iter(tasks.score(teacher.task, answers[name], truth).values()))
        lost = tasks.drop(teacher.task, answers["teacher"], answers[name], truth)
        found[name] = {
            "metric": metric.model_dump(mode="json"), "drop": lost.model_dump(mode="json"), **times.get(name, {}),
            "artifact_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        }  # fmt: skip
    ours = [name for name in folders if name == "winner" or name in known["search"]["front"]]
    verdicts = {}
    for name in known.get("recipes", {}):
        low, high = found[name]["speedup_interval"]
        rivals = []
        for each in ours:
            worse = tasks.drop(teacher.task, answers[name], answers[each], truth)
            fast_enough = found[each]["speedup_interval"][1] >= low
            rivals.append({"name": each, "fast_enough": fast_enough, "points_behind": worse.model_dump(mode="json")})
        holds = [each["name"] for each in rivals if each["fast_enough"] and each["points_behind"]["low"] <= 0]
        verdicts[name] = {"speedup": [low, high], "held_by": holds, "holds": bool(holds), "rivals": rivals}
    return {"measured": found, "against": verdicts}


def bars(known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was promised, and what came out."""
    winner = known["search"]["winner"]
    times = {each["name"]: each["measured"] for each in known["search"]["candidates"] if each["measured"]}
    ratio = times[ANCHOR]["latency_ms"]["median"] / times[winner["name"]]["latency_ms"]["median"]
    limit = known["search"]["aim"]["max_drop"]
    lost = winner["validation"]["drop"]["value"]
    found = [
        {"name": "times faster than 8-bit integers alone", "required": SPEED_BAR, "measured": ratio,
         "met": ratio >= SPEED_BAR},
        {"name": "points lost on validation", "required": limit, "measured": lost, "met": lost <= limit},
    ]  # fmt: skip
    if "against" in known:
        held = sum(each["holds"] for each in known["against"].values())
        found.append({"name": "recipes that the front holds against", "required": len(known["against"]),
                      "measured": held, "met": held == len(known["against"])})  # fmt: skip
    return found


def main() -> int:
    """Do one part, and write what is known then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("search", "recipes", "front"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=CACHE / "models")
    parser.add_argument("--model", default="minilm-l6")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--budget", default="30m")
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--only", nargs="+", default=list(RECIPES), choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--profile", help="of the recipes")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--results", type=Path, default=Path("results/search.json"))
    options = parser.parse_args()
    place = options.out / f"{options.model}-{options.task}"
    known = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    known = {key: known[key] for key in ("search", "recipes", "measured", "against") if key in known}
    if options.part == "search":
        known = {"search": search(options, place)}
    elif options.part == "recipes":
        known["recipes"] = {**known.get("recipes", {}), **recipes(options, place)}
    else:
        known |= front(options, place, known)
    checked = bars(known)
    for bar in checked:
        told(f"{bar['name']}: {bar['measured']:.3g}, bar {bar['required']:g}: {'met' if bar['met'] else 'MISSED'}")
    save_timings(options.results, {**known, "bars": checked}, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
