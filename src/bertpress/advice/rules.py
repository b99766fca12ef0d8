"""From facts to advice: a pure function, each piece of advice with its reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bertpress.advice.facts import Machine, Need, TaskFacts
from bertpress.advice.options import FLOAT_BITS, OPTIONS, Option
from bertpress.encoder.blueprint import Blueprint
from bertpress.report.numerals import milliseconds, size

LONG = 512
"""Tokens below which no lighter attention saves time; see docs/choosing.md."""
BEST = 3
CLEARLY = 0.9
"""Share of the arithmetic below which a saving is worth a word."""
SURVEY = "Ganesh et al., 2021"


@dataclass(frozen=True)
class Advice:
    """A recipe, and why.

    Attributes:
        recipe: its name.
        why: reasons, the strongest first.
        bytes: expected of the file; None: not predicted.
        latency_ms: expected of the middle text; None: not predicted.
        drop: points that it lost where it was measured here; None: not measured.
        fits: whether it is expected to keep the limit and the permitted loss.
    """

    recipe: str
    why: tuple[str, ...]
    bytes: float | None = None
    latency_ms: float | None = None
    drop: float | None = None
    fits: bool = True


def advise(machine: Machine, facts: TaskFacts, need: Need, shape: Blueprint) -> list[Advice]:
    """Recipes for a need, the best first.

    Args:
        machine: that models will run on.
        facts: of the task.
        need: what is short.
        shape: of the model that is compressed.
    """
    found = [_of(option, machine, facts, need, shape) for option in OPTIONS if option.suits(facts)]
    ranked = sorted(found, key=lambda each: (not each.fits, _rank(each, machine, need)))
    return [*_special(machine, facts, need), *ranked[:BEST]]


def _special(machine: Machine, facts: TaskFacts, need: Need) -> list[Advice]:
    """What the texts themselves ask for."""
    if need.target == "size":
        return []
    found = []
    if facts.fixed_passages:
        why = (
            "the second texts come again and again: read apart from the first, they are encoded once and kept",
            "measured here on BERT-base: a question about a kept passage is answered 3.3 times as fast",
            "int8 after it saves more; `predict --passages` keeps the states",
        )
        found.append(Advice("deformer", why))
    if facts.longest > LONG:
        why = (
            f"texts reach {facts.longest} tokens: attention grows with the square of the length, all else with it",
            "measured here at 2,048 tokens: the whole model takes three quarters of the time, nothing below 512",
            _integers(machine),
        )
        found.append(Advice("local-attention", why))
    return found


def _of(option: Option, machine: Machine, facts: TaskFacts, need: Need, shape: Blueprint) -> Advice:
    held, macs, latency = option.bytes(shape, facts.pieces), option.macs(shape, facts.tokens), None
    if (speed := machine.speed) is not None:
        latency = (speed.int8 if option.integers else speed.float32)(option.layers(shape), macs)
    why = [
        *_gains(option, machine, macs / sum(shape.macs(facts.tokens).values())),
        *_vocabulary(option, facts, shape),
        *_fitness(option, facts, need),
    ]
    within, gentle = True, option.drop is not None and option.drop <= need.max_drop
    if need.limit is not None:
        expected, show = (latency, milliseconds) if need.target == "latency" else (held, size)
        within = expected is None or expected <= need.limit
        why.append(f"expected {show(expected)}, {'within' if within else 'beyond'} the limit of {show(need.limit)}")
    if not gentle:
        why.append(f"lost {option.drop:g} points on sst2 here, more than the {need.max_drop:g} that may go")
    return Advice(option.recipe, tuple(why), held, latency, option.drop, within and gentle)


def _gains(option: Option, machine: Machine, share: float) -> Iterator[str]:
    """What the recipe saves on this machine."""
    yield option.saves
    if option.integers:
        yield _integers(machine)
    elif option.bits < FLOAT_BITS:
        yield "fewer bits make the file smaller and nothing faster: engines decode them to what they compute with"
    if share < CLEARLY:
        yield f"{share:.0%} of the multiply-accumulates, which saves time on every processor"


def _vocabulary(option: Option, facts: TaskFacts, shape: Blueprint) -> Iterator[str]:
    """What the texts leave of the token table."""
    if option.trims and facts.pieces is not None:
        yield f"the training texts use {facts.pieces:,} of {shape.embeddings.vocabulary:,} tokens"


def _fitness(option: Option, facts: TaskFacts, need: Need) -> Iterator[str]:
    """How it suits the task and the need."""
    if not option.transformer:
        yield f"students that are no Transformers suit a strict latency where some accuracy may go ({SURVEY})"
    elif option.width < 1:
        yield f"learns the teacher's answers; two moderate cuts lose less than an extreme one ({SURVEY})"
    if not option.trains:
        yield "takes seconds, no training"
    if facts.by_token:
        yield "leaves a state for each token, which tags and spans need"
    elif facts.leaves and need.target == "latency" and option.transformer and option.width < 1:
        yield f"early exits go on top of any Transformer student, as in the recipe fast ({SURVEY})"


def _integers(machine: Machine) -> str:
    return f"8-bit integers: {machine.int8.reason}"


def _rank(each: Advice, machine: Machine, need: Need) -> tuple[float, float]:
    """By the target; where latency was not measured, by what the processor is known to be good at."""
    option = next(option for option in OPTIONS if option.recipe == each.recipe)
    if need.target != "latency":
        return each.bytes or 0.0, each.drop or 0.0
    if each.latency_ms is not None:
        return each.latency_ms, each.drop or 0.0
    arithmetic = option.depth * option.width * (0.0 if not option.transformer else 1.0)
    return arithmetic * (0.3 if option.integers and machine.int8.fast else 1.0), each.drop or 0.0
