"""Run each component of an encoder alone, on the inputs that it gets in a real pass.

A pass is recorded first: every call of the modules that make up a component, with its arguments.  Replaying
one component's calls, all layers in order, is that component alone; shared modules (ALBERT) are replayed as
often as they were called.
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
    recorder = Recorder()
    encoder = model.encoder
    recorder.watch("embeddings", encoder.embeddings, "forward")
    recorder.watch("attention", encoder.relative, "forward")
    for step in ("shorten", "restore"):
        recorder.watch("mixer", encoder.shortening, step)
    for layer in encoder.layers:
        recorder.watch("attention_in", getattr(layer, "narrow", None), "forward")
        recorder.watch("attention_in", getattr(layer, "narrow_query", None), "forward")
        recorder.watch("mixer", getattr(layer, "mixer", None), "forward")
        recorder.watch_attention(getattr(layer, "attention", None))
        recorder.watch("ffn", layer if hasattr(layer, "ffn") else None, "transform")
        recorder.watch("head", layer.exit, "forward")
    recorder.watch("head", model.head, "forward")
    try:
        model(**inputs)
    finally:
        recorder.remove()
    return recorder.calls


class Recorder:
    """Stands before methods of modules and notes every call, until :meth:`remove` uncovers them."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Call]] = {component: [] for component in COMPONENTS}
        self._contexts: dict[int, Tensor] = {}
        self._watched: list[tuple[Any, str]] = []

    def watch(self, component: str, owner: Any, method: str, after: Callable[..., None] | None = None) -> None:
        """Note calls of ``owner.method`` under ``component``; ``after`` gets results and arguments."""
        if owner is None:
            return
        run = getattr(owner, method)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.calls[component].append(partial(run, *args, **kwargs))
            result = run(*args, **kwargs)
            if after is not None:
                after(result, *args, **kwargs)
            return result

        self._shadow(owner, method, recorded)

    def watch_attention(self, attention: SelfAttention | None) -> None:
        """Note the three parts of a self-attention unit."""
        if attention is None:
            return

        def keep(context: Tensor, *_: Any, **__: Any) -> None:
            self._contexts[id(attention)] = context

        self.watch("attention_in", attention, "project")
        self.watch("attention", attention, "mix", after=keep)
        run = attention.forward

        def recorded(queries: Tensor, values: Tensor, residual: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            result = run(queries, values, residual, *args, **kwargs)
            context = self._contexts.pop(id(attention), residual)  # with no head left there was no context
            self.calls["attention_out"].append(partial(close, attention, context, residual))
            return result

        self._shadow(attention, "forward", recorded)

    def _shadow(self, owner: Any, method: str, stand_in: Callable[..., Any]) -> None:
        setattr(owner, method, stand_in)
        self._watched.append((owner, method))

    def remove(self) -> None:
        """Uncover the methods."""
        for owner, method in self._watched:
            delattr(owner, method)
        self._watched.clear()


def close(attention: SelfAttention, context: Tensor, residual: Tensor) -> Tensor:
    """The linear layer after attention, with the residual and the norm that close the unit."""
    return attention.norm(attention.output(context) + residual)  # type: ignore[no-any-return]


def replay(calls: Sequence[Call]) -> None:
    """Run a component alone."""
    for call in calls:
        call()


def time_by_turns(
    jobs: dict[str, Call],
    *,
    rounds: int,
    warm: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[float]]:
    """Milliseconds of each job in each round.

    The jobs run in order in every round, so each finds caches that the others have filled with their own
    weights, as it would in a whole pass.
    """
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
    operations included, scratch that oneDNN keeps for itself not; on a GPU it is the allocator's own maximum.
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
    """Multiply-accumulates that torch's own counter sees.

    Attention is unfolded into its products, for the counter knows no fused kernel of a CPU.
    """
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
