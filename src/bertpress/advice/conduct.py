"""Looks at machine, task and texts, times a few small graphs, and advises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy.optimize import nnls
from typing_extensions import Unpack

from bertpress import tasks
from bertpress.advice.facts import Machine, Need, Speed, Target, TaskFacts, Terms, comes_again, limit_of
from bertpress.advice.rules import Advice
from bertpress.advice.rules import advise as advised
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.imports import load_pretrained, tokenizer_of
from bertpress.encoder.subnetworks import obstacle, subnetwork
from bertpress.engines import available
from bertpress.inputs import TaskOptions, folder_of, model_of, task_of
from bertpress.measure.environment import environment, gpu_name, int8_is_fast, usable_cores
from bertpress.methods.latency import bare, of_graph, of_model
from bertpress.methods.pieces import token_counts
from bertpress.tasks import Rows, Task

READ = 1000
"""Rows whose lengths are looked at."""
COUNTED = 100_000
"""Rows whose tokens are counted."""
TIMED = (1, 4)
"""Layers of the graphs that are timed."""
NARROW = 0.4
"""Width of the layers of half of them: narrow layers take longer than by their arithmetic."""
PASSES = 3
"""How often all of them are made and timed, by turns: what else the machine does comes and goes, and a graph that came
out slow stays slow."""


def advise(
    model: str | Path = "shape:bert-base",
    *,
    need: Target = "latency",
    max_drop: float = 1.0,
    at_most: str | None = None,
    task: str | Task | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    command: str = "",
    **options: Unpack[TaskOptions],
) -> dict[str, Any]:
    """Recommend recipes for this machine, a task and a need, with reasons, expected size and expected speed.

    Args:
        model: that is to be compressed: hub name, folder, or a shape.
        need: what is short: ``latency``, ``size`` or ``memory``.
        max_drop: points that may be lost.
        at_most: a limit, such as ``50MB`` or ``5ms``.
        task: what is learnt; text classification when None.
        data: folder of the task, whose texts are looked at; without it they are taken to have 128 tokens.
        device: what will run it: ``cpu``, ``cuda``, or ``auto``.
        command: what repeats the call.
        **options: changes to the task.

    Returns:
        ``machine``, ``task``, ``need``, and ``advice``: a list, the best first, each with ``recipe``, ``why``,
        ``bytes``, ``latency_ms``, ``drop``, ``fits``.

    Raises:
        UserError: something that was named is not usable.
    """
    wanted = Need(need, max_drop, None if at_most is None else limit_of(at_most, need))
    loaded = load_pretrained(model_of(model))
    shape = loaded.model.blueprint
    facts = TaskFacts()
    if task is not None:
        named, _ = task_of(task, None, options)
        facts = TaskFacts(named.kind, several_labels=named.multi_label)
        if data is not None:
            rows = tasks.load(named, "train", folder_of(data), labelled=False)
            facts = look_at(named, rows, None if loaded.tokenizer_source is None else tokenizer_of(loaded))
    machine = this_machine(device, shape, facts.tokens)
    found: Sequence[Advice] = advised(machine, facts, wanted, shape)
    return {
        "model": str(model),
        "machine": {**asdict(machine), "int8": machine.int8._asdict()},
        "task": asdict(facts),
        "need": asdict(wanted),
        "advice": [asdict(each) for each in found],
        "environment": environment(),
        "command": command,
    }


def look_at(task: Task, rows: Rows, tokenizer: Any) -> TaskFacts:
    """Lengths of texts, in tokens or, without a tokenizer, in words; how many tokens occur; what comes again."""
    some = rows.limit(min(READ, len(rows)))
    columns = [some.column(name) for name in task.text_columns]
    rows_read = zip(*columns, strict=True) if task.reads_pairs else ((text,) for column in columns for text in column)
    texts = [" ".join(part if isinstance(part, str) else " ".join(part) for part in row) for row in rows_read]
    pieces = None
    if tokenizer is None:
        lengths = [len(text.split()) for text in texts]
    else:
        lengths = [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
        pieces = _pieces(task, rows.limit(min(COUNTED, len(rows))), tokenizer)
    middle, longest = np.percentile(lengths, [50, 95])
    again = task.reads_pairs and comes_again(rows.column(task.text_columns[1]))
    return TaskFacts(task.kind, max(1, round(middle)), max(1, round(longest)), again, pieces, task.multi_label)


def _pieces(task: Task, rows: Rows, tokenizer: Any) -> int:
    """How many different tokens the texts use, with those that are put round every text."""
    counts = token_counts(tokenizer, tasks.texts_of(task.text_columns, rows).column(tasks.TEXT))
    counts[tokenizer("")["input_ids"]] = 1
    return int(counts.count_nonzero())


def this_machine(device: str, shape: Blueprint, tokens: int) -> Machine:
    """The machine that this runs on, timed on a few graphs where models will run on its processor."""
    gpu = gpu_name() if device != "cpu" else None
    speed = None if gpu or obstacle(shape) else measured(shape, min(tokens, shape.embeddings.positions or tokens))
    return Machine(usable_cores(), int8_is_fast(), gpu, psutil.virtual_memory().total, speed)


def measured(shape: Blueprint, tokens: int) -> Speed:
    """What a call, a layer and arithmetic take, from random weights in the shape of some of the model's layers."""
    narrow = subnetwork(shape, width=NARROW)[0].of(shape.layers[0])
    shapes = [bare(shape).with_layers((layer,) * count) for layer in (shape.layers[0], narrow) for count in TIMED]
    parts = np.array([[1.0, len(each.layers), sum(each.macs(tokens).values()) / 1e9] for each in shapes])

    def terms(clock: Callable[[Blueprint, int], float]) -> Terms:
        """Of least squares on the ratios of expected and measured times, none below 0."""
        times = np.median([[clock(each, tokens) for each in shapes] for _ in range(PASSES)], axis=0)
        return Terms(*nnls(parts / times[:, None], np.ones(len(times)))[0].tolist())

    floats = terms(of_model)
    integers = terms(of_graph) if "openvino" in available() else floats
    return Speed(floats, integers)
