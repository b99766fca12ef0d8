"""Run each component of an encoder alone, on the inputs that it gets in a real pass.

A pass is recorded first: every call of the modules that make up a component, with its arguments.  Replaying one
component's calls, all layers in order, is that component alone; shared modules (ALBERT) are replayed as often as they
were called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bertpress.encoder.attention import SelfAttention
from bertpress.encoder.costs import COMPONENTS
from bertpress.encoder.model import BertpressPreTrainedModel

Call: TypeAlias = Callable[[], Any]
Inputs: TypeAlias = dict[str, Tensor]
WHOLE = "whole"


def record(model: BertpressPreTrainedModel, inputs: Inputs) -> dict[str, list[Call]]:
    """Run the model once and keep each component's calls with their arguments.

    Args:
        model: in evaluation mode.
        inputs: keyword arguments of its forward.

    Returns:
        For each of ``COMPONENTS``: calls without arguments, in the order of the pass.
    """
    calls: dict[str, list[Call]] = {component: [] for component in COMPONENTS}
    contexts: dict[int, Tensor] = {}
    originals: list[tuple[Any, str]] = []

    def watch(component: str, owner: Any, method: str) -> None:
        run = getattr(owner, method)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            calls[component].append(partial(run, *args, **kwargs))
            result = run(*args, **kwargs)
            if isinstance(owner, SelfAttention) and method == "mix":
                contexts[id(owner)] = result
            return result

        setattr(owner, method, recorded)
        originals.append((owner, method))

    def watch_close(attention: SelfAttention) -> None:
        run = attention.forward

        def recorded(queries: Tensor, values: Tensor, residual: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            result = run(queries, values, residual, *args, **kwargs)
            context = contexts.pop(id(attention), residual)
            calls["attention_out"].append(partial(close, attention, context, residual))
            return result

        setattr(attention, "forward", recorded)  # noqa: B010 mypy refuses to assign a method
        originals.append((attention, "forward"))

    encoder = model.encoder
    watch("embeddings", encoder.embeddings, "forward")
    if encoder.relative is not None:
        watch("attention", encoder.relative, "forward")
    for layer in encoder.layers:
        for name in ("narrow", "narrow_query"):
            if getattr(layer, name, None) is not None:
                watch("attention_in", getattr(layer, name), "forward")
        if hasattr(layer, "attention"):
            watch("attention_in", layer.attention, "project")
            watch("attention", layer.attention, "mix")
            watch_close(layer.attention)
        if hasattr(layer, "ffn"):
            watch("ffn", layer, "transform")
    if model.head is not None:
        watch("head", model.head, "forward")
    try:
        model(**inputs)
    finally:
        for owner, method in originals:
            delattr(owner, method)
    return calls


def close(attention: SelfAttention, context: Tensor, residual: Tensor) -> Tensor:
    """The linear layer after attention, with the residual and the norm that close the unit."""
    return attention.norm(attention.output(context) + residual)  # type: ignore[no-any-return]


def replay(calls: Sequence[Call]) -> None:
    """Run a component alone."""
    for call in calls:
        call()


def time_by_turns(
    jobs: dict[str, Call], *, rounds: int, warm: int, device: torch.device, progress: Callable[[int, int], None] | None
) -> dict[str, list[float]]:
    """Milliseconds of each job in each round; the jobs run in order in every round, so each finds caches that the
    others have filled with their own weights, as in a whole pass."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(warm + rounds):
        for name, job in jobs.items():
            synchronize(device)
            began = time.perf_counter_ns()
            job()
            synchronize(device)
            if turn >= warm:
                found[name].append((time.perf_counter_ns() - began) / 1e6)
        if progress is not None:
            progress(turn + 1, warm + rounds)
    return found


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_added_bytes(job: Call, device: torch.device) -> int:
    """The most memory that a job holds at a time beyond what was there before it.

    On a CPU it is read from the allocations and releases that torch's profiler records, temporaries inside
    operations included (scratch that oneDNN keeps for itself is not); on a GPU it is the allocator's own maximum.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    from torch.profiler import ProfilerActivity, profile

    job()  # whatever is allocated once and kept is not an activation
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        job()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def counted_macs(job: Call) -> int:
    """Multiply-accumulates that torch's own counter sees; attention is unfolded, for the counter knows no CPU kernel of it."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        job()
    return int(counter.get_total_flops()) // 2


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """Let torch use this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
