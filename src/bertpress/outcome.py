"""What came out: baseline and artifact, scored and timed from disk, as their users would load them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bertpress import artifact, tasks
from bertpress.artifact import Artifact
from bertpress.artifact.exits import described
from bertpress.artifact.manifest import WEIGHTS
from bertpress.artifact.predict import logits_of
from bertpress.artifact.sizes import file_bytes, stored_bits
from bertpress.data import Data
from bertpress.encoder.sources import find
from bertpress.engines import Engine, load_engine
from bertpress.engines.staged import Staged
from bertpress.export.parity import parity
from bertpress.measure.bench import Candidate, interleave
from bertpress.measure.environment import usable_cores
from bertpress.measure.profile import breakdown
from bertpress.measure.size import size
from bertpress.measure.texts import Text
from bertpress.runfolder import RunFolder
from bertpress.tasks import Encoded, Rows, Task
from bertpress.training import collate_for
from bertpress.training.progress import Meter

if TYPE_CHECKING:
    from bertpress.runner import Request

TIMED_TEXTS = 256
PARITY_ROWS = 1000
PARITY_BATCH = 16
BATCH = 32
ENGINES = {"openvino": "openvino", "onnx": "onnxruntime"}


def measure(
    request: Request,
    folder: RunFolder,
    data: Data,
    baseline: Artifact,
    pressed: Artifact,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Score and time the baseline in PyTorch and the artifact on every engine that it was exported to.

    Returns:
        ``baseline`` and ``artifact`` of results.json; the artifact's own figures are those of its fastest engine.
    """
    engines = [*(ENGINES[runtime] for runtime in request.recipe.export), "torch"]
    threads = request.threads or usable_cores()
    found = answers(request, folder, data, baseline, pressed, engines, say)
    say("timing, interleaved")
    timed = folder.once("measured/timing.json", lambda: _timing(request, data, baseline, pressed, engines, threads))
    return figures(request, data, baseline, pressed, found, timed["candidates"], timed["mean_tokens"])


def answers(
    request: Request,
    folder: RunFolder,
    data: Data,
    baseline: Artifact,
    pressed: Artifact,
    engines: Sequence[str],
    say: Callable[[str], None],
) -> dict[tuple[str, str], dict[str, Any]]:
    """Predictions of the baseline in PyTorch and of the artifact on these engines, as :func:`scores` gives them."""
    truth = tasks.references(data.task, data.validation)
    found = {}
    for name, made, engine in [("baseline", baseline, "torch"), *(("artifact", pressed, e) for e in engines)]:
        say(f"scoring the {name} on {engine}")
        key = f"measured/{name}-{engine}.json"
        found[name, engine] = folder.once(key, lambda m=made, e=engine: scores(request, data, m, e, truth))  # type: ignore[misc]
    return found


def figures(
    request: Request,
    data: Data,
    baseline: Artifact,
    pressed: Artifact,
    found: Mapping[tuple[str, str], Mapping[str, Any]],
    timed: Sequence[Mapping[str, Any]],
    tokens: int,
) -> dict[str, Any]:
    """``baseline`` and ``artifact`` of results.json.

    Args:
        request: of the run.
        data: task and rows.
        baseline: the uncompressed model.
        pressed: the compressed one.
        found: of :func:`answers`.
        timed: what was measured of the baseline, and of the artifact on each engine of ``found``, in its order; each
            with ``engine``.
        tokens: mean length of the texts.
    """
    truth = tasks.references(data.task, data.validation)
    first = found["baseline", "torch"]
    teacher_bytes = size(baseline.path).weight_bytes
    rows: dict[str, dict[str, Any]] = {}
    for times in timed[1:]:
        answered = found["artifact", times["engine"]]
        drop = tasks.drop(
            data.task,
            first["predictions"],
            answered["predictions"],
            truth,
            seed=request.seed,
            metric=request.metric,
        )
        rows[times["engine"]] = {
            **times,
            **size(pressed.path, times["engine"]).as_keys(teacher_bytes),
            "metric": answered["metric"],
            "metrics": answered["metrics"],
            "drop": drop.model_dump(mode="json"),
            "parity": answered["parity"],
            **({"exits": exits} if (exits := answered.get("exits")) else {}),
        }
    return {
        "baseline": {
            **timed[0],
            "name": Path(request.teacher or request.model).name,
            **shape_of(baseline, tokens),
            **size(baseline.path).as_keys(),
            "metric": first["metric"],
            "metrics": first["metrics"],
        },
        "artifact": {
            **rows[min(rows, key=lambda engine: _latency(rows[engine]))],
            "name": request.recipe.name,
            **shape_of(pressed, tokens),
            "storage": stored_bits(pressed.path / WEIGHTS),
            **({"exit_curve": pressed.manifest.exits} if pressed.manifest.exits else {}),
            "engines": rows,
        },
    }


def _latency(times: dict[str, Any]) -> float:
    """Median milliseconds; infinite where nothing was timed."""
    return float(times["latency_ms"]["median"]) if "latency_ms" in times else math.inf


def by_width_and_depth(
    request: Request, folder: RunFolder, data: Data, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The sub-networks of the last stage that has left some, as :func:`subnetworks` gives them; none without it."""
    places = sorted(folder.path.glob("stages/*/model")) + sorted(folder.path.glob("stages/*/*/model"))
    elastic = [place for place in places if (find(place).config.get("blueprint") or {}).get("elastic")]
    if not elastic:
        return []

    def scored() -> dict[str, Any]:
        found = subnetworks(
            artifact.load(elastic[-1]), data.validation, threads=request.threads, seed=request.seed,
            metric=request.metric, say=say,
        )  # fmt: skip
        return {"subnetworks": found}

    found: list[dict[str, Any]] = folder.once("measured/subnetworks.json", scored)["subnetworks"]
    return found


def subnetworks(
    made: Artifact,
    data: Rows | Path | None = None,
    *,
    tokens: int = 128,
    threads: int | None = None,
    seed: int = 0,
    metric: tasks.UserMetric | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Size, arithmetic and score of every sub-network of an artifact, each written to disk and scored from there.

    Args:
        made: with widths and depths.
        data: rows, or a folder of splits; None asks the hub.
        tokens: length of the text whose MACs are counted.
        threads: of PyTorch; all cores when None.
        seed: of the bootstrap.
        metric: the user's own.
        say: shows one line of progress.

    Returns:
        ``width``, ``depth``, ``parameters``, ``macs``, ``weight_bytes``, ``metric`` and more, by size.

    Raises:
        ArtifactError: it has none, or its weights are quantized.
    """
    elastic = made.blueprint.elastic
    choices = [(w, d) for w in elastic.widths for d in elastic.depths] if elastic is not None else [(1.0, 1.0)]
    whole, found = size(made.path).weight_bytes, []
    for number, (width, depth) in enumerate(choices, start=1):
        say(f"scoring sub-network {number} of {len(choices)}: width {width:g}, depth {depth:g}")
        with TemporaryDirectory() as folder:
            alone = made.subnetwork(Path(folder) / "alone", width=width, depth=depth)
            score = next(iter(alone.evaluate(data, threads=threads, seed=seed, metric=metric).values()))
            shape = alone.blueprint
            found.append({
                "width": width,
                "depth": depth,
                "parameters": shape.total_parameters,
                "parameters_without_embeddings": shape.parameters_without_embeddings,
                "macs": sum(shape.macs(tokens).values()),
                "tokens": tokens,
                **size(alone.path).as_keys(whole),
                "metric": score.model_dump(mode="json"),
            })  # fmt: skip
    return sorted(found, key=lambda each: (each["parameters"], each["macs"]))


def scores(request: Request, data: Data, made: Artifact, engine: str, truth: list[Any]) -> dict[str, Any]:
    """Predictions on the validation split and what they are worth; for exports, how far they are from torch."""
    runner = load_engine(engine, made.path, request.threads)
    encoded, answers = answered(data.task, data.validation, made, runner)
    values = tasks.score(data.task, answers, truth, seed=request.seed, metric=request.metric)
    plain = {name: value.model_dump(mode="json") for name, value in values.items()}
    exits = None
    if isinstance(runner, Staged):
        exits = described(
            made.blueprint,
            runner.left.tolist(),
            runner.speed,
            tokens=round(sum(encoded.lengths) / len(encoded.lengths)),
        )
    agreement = None if engine == "torch" else _parity(request, data, made, engine)
    return {
        "predictions": answers,
        "metric": next(iter(plain.values())),
        "metrics": plain,
        "parity": agreement,
        "exits": exits,
    }


def answered(task: Task, rows: Rows, made: Artifact, runner: Engine) -> tuple[Encoded, list[Any]]:
    """What an artifact on an engine answers to rows, and the rows as it read them."""
    encoded, logits = logits_of(task, rows, made.tokenizer, runner, BATCH)
    return encoded, tasks.predictions(task, encoded, logits)


def _parity(request: Request, data: Data, made: Artifact, engine: str) -> dict[str, Any]:
    """How far the exported file is from the model in memory (of int8: from its simulation), on real rows."""
    encoded = tasks.encode(data.task, data.validation.limit(PARITY_ROWS), made.tokenizer, training=False)
    collate = collate_for(made.tokenizer)
    starts = range(0, len(encoded), PARITY_BATCH)
    batches = [collate([encoded[i] for i in range(at, min(at + PARITY_BATCH, len(encoded)))]) for at in starts]
    return asdict(parity(made.model, made.path, engine, batches, request.threads))


def _timing(
    request: Request, data: Data, baseline: Artifact, pressed: Artifact, engines: list[str], threads: int
) -> dict[str, Any]:
    candidates = [
        Candidate("baseline", baseline.path, "torch"),
        *(Candidate(engine, pressed.path, engine) for engine in engines),
    ]
    rows = data.validation.limit(TIMED_TEXTS, request.seed)
    timed = interleave(
        candidates,
        texts_of(data.task, rows),
        threads=threads,
        max_length=data.task.max_length,
        progress=Meter("timing").advance,
    )
    tokens = [count for figures in timed for count in figures["tokens"]]
    return {"candidates": timed, "mean_tokens": round(sum(tokens) / len(tokens))}


def texts_of(task: Task, rows: Rows) -> list[Text]:
    """What a user would send: a text, a pair, or words."""
    columns = [rows.column(name) for name in task.text_columns]
    if task.kind == "token-classification":
        return [list(map(str, words)) if not isinstance(words, str) else words.split() for words in columns[0]]
    if len(columns) == 1:
        return [str(text) for text in columns[0]]
    return [(str(a), str(b)) for a, b in zip(*columns, strict=True)]


def shape_of(made: Artifact, tokens: int) -> dict[str, Any]:
    """Counts that follow from the blueprint alone; MACs for the mean length of the timed texts."""
    shape = made.blueprint
    return {
        "parameters": shape.total_parameters,
        "parameters_without_embeddings": shape.parameters_without_embeddings,
        "macs": sum(shape.macs(tokens).values()),
        "tokens": tokens,
        "breakdown": breakdown(shape, tokens, file_bytes(made.path / WEIGHTS)),
        "layers": [
            {
                "source": layer.origin,
                "heads": list(layer.attention.heads),
                **({"mixer": layer.mixer.kind} if layer.mixer else {}),
                "ffn": list(layer.ffn),
                "head_size": layer.attention.head_size,
            }
            for layer in shape.layers
        ],
    }
