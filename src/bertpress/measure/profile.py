"""Where parameters, arithmetic, memory and time of a model go: the survey's Figure 3, for any model.

Source: Ganesh et al., TACL 2021, section 2.2 and Figure 3 (BERT-base, one input of 256 tokens).  Departs
from it: every component is timed alone, by turns with the whole model, instead of being read from a
profiler's trace; what the components do not account for has a line of its own; memory is what a component
allocates while it runs, without the weights, which the first panel shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from bertpress.artifact.sizes import model_bytes
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.costs import COMPONENTS
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import ModelError
from bertpress.measure.components import (
    WHOLE,
    counted_macs,
    peak_added_bytes,
    record,
    replay,
    threads_of_torch,
    time_by_turns,
)
from bertpress.measure.environment import environment, usable_cores
from bertpress.measure.statistics import Latency, rounded

Progress = Callable[[int, int], None]
BYTES_OF_FLOAT = 4
MEMORY_NOTE = "peak bytes that a component allocates while it runs alone, weights not counted"
LATENCY_NOTE = "a component run alone on the inputs of a real pass, by turns with the whole model"


def breakdown(blueprint: Blueprint, tokens: int, stored: Mapping[str, int] | None = None) -> dict[str, dict[str, int]]:
    """Parameters, bytes and multiply-accumulates of each component, from the shape alone.

    Args:
        blueprint: of the model.
        tokens: length of the one input that the multiply-accumulates are for.
        stored: bytes on disk by component (:mod:`bertpress.artifact.sizes`); None: float32.
    """
    parameters, macs = blueprint.parameters(), blueprint.macs(tokens)
    sizes = stored or {component: BYTES_OF_FLOAT * parameters[component] for component in COMPONENTS}
    return {
        component: {
            "parameters": parameters[component],
            "bytes": sizes[component],
            "macs": macs[component],
        }
        for component in COMPONENTS
        if component != "mixer" or parameters[component]  # Transformers have none
    }


def profile(
    model: BertpressPreTrainedModel,
    *,
    name: str = "model",
    tokens: int | Sequence[int] = (256, 128),
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 30,
    warm: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model's components in this process.

    Args:
        model: a bertpress model; it is put into evaluation mode and moved to ``device``.
        name: shown as it is.
        tokens: length of the input, or several; the first fills the totals and ``components``.
        batch: rows of the input.
        threads: for torch; None uses every usable core.
        device: ``cpu`` or ``cuda``.
        rounds: samples of each latency.
        warm: rounds before those, not counted.
        seed: of the random token ids.
        progress: is told (rounds done, rounds in all).

    Returns:
        The keys of :func:`profile_length` for the first length, ``lengths`` with one such object for each,
        and ``parameters``, ``parameters_without_embeddings``, ``weight_bytes``,
        ``weight_bytes_without_embeddings``, ``embedding_share``, ``blueprint``, ``environment``.

    Raises:
        ModelError: an input is longer than the model's position table.
        ValueError: a number below 1.
    """
    lengths = [tokens] if isinstance(tokens, int) else list(tokens)
    threads = threads or usable_cores()
    if not lengths or min(*lengths, batch, rounds) < 1:
        raise ValueError("profile needs tokens, batch and rounds >= 1")
    longest = model.blueprint.longest_input
    for length in lengths:
        if longest is not None and length > longest:
            raise ModelError(f"{name}: tokens={length} must be at most {longest}, the model's positions")
    model = model.eval().to(device)
    stored = model_bytes(model)
    total = len(lengths) * (rounds + warm)
    measured = []
    with threads_of_torch(threads):
        for i, length in enumerate(lengths):
            step = partial(_shifted, progress, i * (rounds + warm), total) if progress else None
            inputs = random_inputs(model.blueprint, length, batch, seed, device)
            measured.append(profile_length(model, inputs, stored, rounds=rounds, warm=warm, progress=step))
    blueprint = model.blueprint
    embeddings = blueprint.parameters()["embeddings"]
    found: dict[str, Any] = rounded({
        "model": name,
        **measured[0],
        "parameters": blueprint.total_parameters,
        "parameters_without_embeddings": blueprint.parameters_without_embeddings,
        "embedding_share": embeddings / blueprint.total_parameters,
        "weight_bytes": sum(stored.values()),
        "weight_bytes_without_embeddings": sum(stored.values()) - stored["embeddings"],
        "engine": "torch",
        "threads": threads,
        "device": device,
        "notes": {"memory_bytes": MEMORY_NOTE, "latency_ms": LATENCY_NOTE},
        "lengths": measured,
        "blueprint": blueprint.model_dump(mode="json", exclude_defaults=True),
        "environment": environment(threads=threads, seed=seed),
    }, digits=6)  # fmt: skip
    return found


def profile_length(
    model: BertpressPreTrainedModel,
    inputs: dict[str, torch.Tensor],
    stored: Mapping[str, int],
    *,
    rounds: int,
    warm: int = 5,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure one batch of inputs of one length; ``stored`` as for :func:`breakdown`.

    Returns:
        ``tokens, batch, macs, flops, macs_counted, memory_bytes, latency_ms``; ``components``, each with
        ``parameters, bytes, macs, macs_counted, memory_bytes, latency_ms, latency_share``; ``unattributed``
        with the whole's latency minus the components' sum and its share, negative where the sum is the
        larger. MACs are of the whole batch; ``macs`` from the blueprint, ``macs_counted`` by torch's
        counter.
    """
    batch, tokens = inputs["input_ids"].shape
    with torch.no_grad():
        calls = record(model, inputs)
        jobs: dict[str, Callable[[], Any]] = {WHOLE: lambda: model(**inputs)}
        jobs.update({name: partial(replay, calls[name]) for name in COMPONENTS if calls[name]})
        counted = {name: counted_macs(job) for name, job in jobs.items()}
        peaks = {name: peak_added_bytes(job, model.device) for name, job in jobs.items()}
        samples = time_by_turns(jobs, rounds=rounds, warm=warm, device=model.device, progress=progress)
    latencies = {name: Latency.of(values) for name, values in samples.items()}
    whole = latencies[WHOLE].median
    components: dict[str, dict[str, Any]] = {}
    for name, static in breakdown(model.blueprint, tokens, stored).items():
        latency = latencies.get(name, Latency(median=0, p90=0, samples=()))
        components[name] = {
            **static,
            "macs": batch * static["macs"],
            "macs_counted": counted.get(name, 0),
            "memory_bytes": peaks.get(name, 0),
            "latency_ms": latency.model_dump(mode="json"),
            "latency_share": latency.median / whole,
        }
    rest = whole - sum(component["latency_ms"]["median"] for component in components.values())
    macs = sum(component["macs"] for component in components.values())
    return {
        "tokens": tokens,
        "batch": batch,
        "macs": macs,
        "flops": 2 * macs,
        "macs_counted": counted[WHOLE],
        "memory_bytes": peaks[WHOLE],
        "latency_ms": latencies[WHOLE].model_dump(mode="json"),
        "components": components,
        "unattributed": {"latency_ms": rest, "latency_share": rest / whole},
    }


def random_inputs(blueprint: Blueprint, tokens: int, batch: int, seed: int, device: str) -> dict[str, torch.Tensor]:
    """Token ids drawn from the vocabulary without the pad, nothing masked: (batch, tokens) each."""
    spec = blueprint.embeddings
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, max(spec.vocabulary - 1, 1), (batch, tokens), generator=generator)
    ids += ids >= spec.pad_id if spec.vocabulary > 1 else 0
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


def _shifted(progress: Progress, shift: int, total: int, done: int, _: int) -> None:
    progress(shift + done, total)
