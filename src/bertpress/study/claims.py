"""Claims of the literature, checked on our own runs: paired scores in, a verdict out.

Most claims say that one way beats another at equal size.  A pair is two runs that differ in nothing else: the same
task, seed, and number of layers or parameters.  The verdict follows from the bootstrap interval of the mean difference.
One claim is of a vocabulary, and needs texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bertpress.tasks.bootstrap import mean_interval

FEWEST = 5
"""Pairs that a verdict needs: with fewer, a bootstrap of their mean draws nearly the same pairs again and again."""
HARDLY = 1.0
"""Points that a change may cost and still "hardly hurts"."""
NOTICEABLE = 1.1
"""The speedup from which a model counts as faster."""
MATCHING = 94.0
"""Percent of the tokens that a vocabulary of 5,000 word pieces cuts as one of 30,000 does (Zhao et al. 2019)."""


class Claim(BaseModel):
    """A statement that paired runs can speak for or against.

    Attributes:
        text: the statement.
        cite: who made it.
        better: what scores higher if it is true.
        worse: what it is compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    cite: str
    better: str
    worse: str


class Verdict(BaseModel):
    """What the runs say of a claim.

    Attributes:
        claim: that was checked.
        pairs: how many there were.
        value: mean difference in points, positive for the claim; None without pairs.
        low: of its 95 % interval; None where there are too few pairs.
        high: likewise.
        verdict: it holds if the whole interval lies above 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Claim
    pairs: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Literal["holds", "does not hold here", "not enough runs"]


BOTTOM_LAYERS = Claim(
    text="Bottom layers matter more than top ones.",
    cite="Sajjad et al., 2020",
    better="dropping the top layers",
    worse="dropping as many bottom layers",
)

HARMONY = Claim(
    text="Reducing all dimensions in harmony beats reducing one at equal size.",
    cite="Ganesh et al., 2021",
    better="reducing depth, heads, neurons and hidden size together",
    worse="reducing one of them",
)

ATTENTION = Claim(
    text="Adding attention, values included, beats logits and hidden states alone.",
    cite="Ganesh et al., 2021",
    better="logits, hidden states, attention scores and values",
    worse="logits and hidden states",
)

COMBINING = Claim(
    text="Combining targets of distillation beats each of them.",
    cite="Ganesh et al., 2021",
    better="several targets together",
    worse="the best of them alone",
)

GENERAL_FIRST = Claim(
    text="Distillation on text before that on the task beats distillation on the task alone.",
    cite="Ganesh et al., 2021",
    better="a stage on unlabelled text, then the task",
    worse="the task alone",
)


LOW_RANK = Claim(
    text="Low rank makes a model smaller without making it faster.",
    cite="Ganesh et al., 2021",
    better=f"a speedup of {NOTICEABLE}",
    worse="the speedup of matrices that are products of two thinner ones",
)

LOCAL_BELOW = Claim(
    text="Local attention in the lower layers hardly hurts.",
    cite="Cao et al., 2020",
    better=f"local attention in the lower layers, and {HARDLY} points",
    worse="full attention in all layers",
)


def check(claim: Claim, better: Sequence[float], worse: Sequence[float], *, seed: int = 0) -> Verdict:
    """Weigh a claim.

    Args:
        claim: that ``better`` scores higher than ``worse``.
        better: scores in percent, one a pair.
        worse: scores of the same pairs, in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: the two are not of one length.
    """
    differences = [one - other for one, other in zip(better, worse, strict=True)]
    pairs = len(differences)
    if pairs < FEWEST:
        mean = sum(differences) / pairs if pairs else None
        return Verdict(claim=claim, pairs=pairs, value=mean, verdict="not enough runs")
    value, low, high = mean_interval(differences, seed=seed)
    verdict: Literal["holds", "does not hold here"] = "holds" if low > 0 else "does not hold here"
    return Verdict(claim=claim, pairs=pairs, value=value, low=low, high=high, verdict=verdict)


def bottom_layers_matter(dropped_top: Sequence[float], dropped_bottom: Sequence[float], *, seed: int = 0) -> Verdict:
    """:data:`BOTTOM_LAYERS` on scores after the top k and the bottom k layers were dropped, pair by pair."""
    return check(BOTTOM_LAYERS, dropped_top, dropped_bottom, seed=seed)


def harmony_wins(all_dimensions: Sequence[float], one_dimension: Sequence[float], *, seed: int = 0) -> Verdict:
    """:data:`HARMONY` on scores after all dimensions and after one was reduced to the same size, pair by pair."""
    return check(HARMONY, all_dimensions, one_dimension, seed=seed)


def low_rank_only_shrinks(percent: Sequence[float], speedups: Sequence[float], *, seed: int = 0) -> Verdict:
    """:data:`LOW_RANK` on sizes in percent of the whole model's and ratios of its latency to theirs, model by model.

    It does not hold where one of them is no smaller.
    """
    found = check(LOW_RANK, [NOTICEABLE] * len(percent), speedups, seed=seed)
    smaller = all(size < 100 for size in percent)
    return found if smaller else found.model_copy(update={"verdict": "does not hold here"})


def local_below_hardly_hurts(local: Sequence[float], full: Sequence[float], *, seed: int = 0) -> Verdict:
    """:data:`LOCAL_BELOW` on scores with local attention in the lower layers and with full attention, pair by pair."""
    return check(LOCAL_BELOW, [score + HARDLY for score in local], full, seed=seed)


def matching_tokens(texts: Sequence[str], large: Any, small: Any) -> float:
    """How many of the tokens that one tokenizer cuts texts into another cuts likewise, in percent.

    The claim is that 5,000 word pieces cut at least :data:`MATCHING` percent as 30,000 do; it depends on the texts.

    Args:
        texts: a corpus.
        large: a fast tokenizer of transformers; its tokens are counted, special ones left out.
        small: another; a token of the large one is matched where this one has it at the same place.

    Raises:
        ValueError: the texts have no tokens.
    """
    every = matched = 0
    for text in texts:
        ours, theirs = (_pieces(text, tokenizer) for tokenizer in (large, small))
        every += len(ours)
        matched += len(ours & theirs)
    if not every:
        raise ValueError("the texts have no tokens")
    return 100 * matched / every


def _pieces(text: str, tokenizer: Any) -> set[tuple[str, tuple[int, int]]]:
    """Each token with its characters in the text."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(found["input_ids"])
    return {(token, tuple(place)) for token, place in zip(tokens, found["offset_mapping"], strict=True)}
