"""Time several models in one interleaved run, so that whatever drifts on the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertpress.measure.process import Worker, folder_of
from bertpress.measure.statistics import Latency, paired_ratio, rounded
from bertpress.measure.texts import Text, to_wire

if TYPE_CHECKING:
    from bertpress.engines import Speed

Progress = Callable[[int, int], None]
SETTLE_SECONDS = 0.02  # waiting OpenMP and engine threads spin for some milliseconds before they sleep


class Candidate(NamedTuple):
    """A model or artifact and the engine that runs it.

    Attributes:
        speed: of its early exits; None: its own.
        lengths: for which the engine has graphs of their own; see :mod:`bertpress.engines.lengths`.
    """

    name: str
    path: Path
    engine: str = "torch"
    speed: Speed | None = None
    lengths: tuple[int, ...] = ()


def interleave(
    candidates: Sequence[Candidate],
    texts: Sequence[Text],
    *,
    threads: int,
    rounds: int = 25,
    block: int = 8,
    max_length: int = 128,
    batch_size: int = 32,
    throughput_texts: int = 256,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measure every candidate in a process of its own, by turns.

    In each round one block of texts is timed with every candidate, forwards in even rounds, backwards in odd
    ones.  A candidate's ``speedup`` is the median over rounds of (baseline's time of the block / its own).

    Args:
        candidates: the baseline first.
        texts: real task texts, each run once to warm up; blocks are cut from them in order, from the start again when
            they run out.
        threads: for every engine.
        rounds: blocks timed with each candidate.
        block: texts in a block, run one by one (batch 1).
        max_length: tokens at which a text is cut.
        batch_size: of the throughput measurement.
        throughput_texts: texts of the throughput measurement; 0 leaves it out.
        progress: is told (steps done, steps in all).

    Returns:
        For each candidate: ``name, engine, threads, lengths, latency_ms, model_latency_ms, speedup`` with
        ``_interval`` and ``_samples``, ``throughput_per_s, throughput_samples, peak_memory_bytes, memory,
        load_seconds, tokens`` and ``idle_processor_share``: processor time that the others took while this
        one was timed, 0 at best.

    Raises:
        UserError: a candidate cannot be loaded.
        ValueError: no candidate, no text, or a number below 1.
    """
    if not candidates or not texts or min(rounds, block, threads) < 1:
        raise ValueError("interleave needs a candidate, a text, and rounds, block and threads >= 1")
    wires = [to_wire(text) for text in texts]
    steps, done = len(candidates) * (rounds + 2), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    with ExitStack() as stack:
        workers, found = [], []
        for candidate in candidates:
            worker = stack.enter_context(Worker(candidate.name, threads))
            loaded = worker.ask(
                "load",
                folder=folder_of(candidate.path),
                engine=candidate.engine,
                threads=threads,
                max_length=max_length,
                speed=candidate.speed,
                lengths=candidate.lengths,
            )
            # Every text once: engines with dynamic shapes make a kernel when they first meet a length, and a server
            # has met them all.  It also brings memory to its peak.
            worker.ask("time", texts=wires)
            memory = worker.ask("peak")
            workers.append(worker)
            found.append({"name": candidate.name, "engine": candidate.engine, "threads": threads,
                          "lengths": list(candidate.lengths), "load_seconds": loaded["seconds"], "memory": memory,
                          "peak_memory_bytes": memory["peak_bytes"]})  # fmt: skip
            advance()
        timings = _rounds(workers, wires, rounds, block, advance)
        for worker, figures, timing in zip(workers, found, timings, strict=True):
            figures.update(_summary(timing, timings[0]))
            if throughput_texts:
                time.sleep(SETTLE_SECONDS)
                sweep = worker.ask("throughput", texts=wires[:throughput_texts], batch_size=batch_size)
                samples = Latency.of(sweep["per_s"])
                figures.update(throughput_per_s=samples.median, throughput_samples=samples.samples)
            advance()
    return [rounded(figures) for figures in found]


class Timing:
    """What one candidate's blocks took."""

    def __init__(self) -> None:
        self.total: list[float] = []
        self.model: list[float] = []
        self.tokens: list[int] = []
        self.blocks: list[float] = []
        self.others_seconds = 0.0
        self.own_seconds = 0.0


def _rounds(
    workers: Sequence[Worker],
    wires: Sequence[dict[str, Any]],
    rounds: int,
    block: int,
    advance: Callable[[], None],
) -> list[Timing]:
    timings = [Timing() for _ in workers]
    for turn in range(rounds):
        texts = [wires[(turn * block + i) % len(wires)] for i in range(block)]
        order = range(len(workers)) if turn % 2 == 0 else range(len(workers) - 1, -1, -1)
        for i in order:
            time.sleep(SETTLE_SECONDS)
            others = [worker for j, worker in enumerate(workers) if j != i]
            before, began = sum(worker.processor_seconds() for worker in others), time.perf_counter()
            answer = workers[i].ask("time", texts=texts, warm=1)
            seconds = time.perf_counter() - began
            timings[i].own_seconds += seconds
            timings[i].others_seconds += sum(worker.processor_seconds() for worker in others) - before
            timings[i].total += answer["latency_ms"]
            timings[i].model += answer["model_latency_ms"]
            timings[i].tokens += answer["tokens"]
            timings[i].blocks.append(sum(answer["latency_ms"]))
            advance()
    return timings


def _summary(timing: Timing, baseline: Timing) -> dict[str, Any]:
    ratio = paired_ratio(baseline.blocks, timing.blocks)
    return {
        "latency_ms": Latency.of(timing.total).model_dump(mode="json"),
        "model_latency_ms": Latency.of(timing.model).model_dump(mode="json"),
        "speedup": ratio.value,
        "speedup_interval": [ratio.low, ratio.high],
        "speedup_samples": list(ratio.samples),
        "tokens": timing.tokens,
        "idle_processor_share": timing.others_seconds / timing.own_seconds,
    }
