"""Claims that no comparison of runs decides: they follow from a shape, a profile, or a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertpress.encoder.blueprint import Blueprint, uniform
from bertpress.measure.size import BERT_BASE_PARAMETERS
from bertpress.report.reading import mapping, number, numbers, text
from bertpress.study.claims import Claim, Verdict, decide, settled
from bertpress.study.evidence import Evidence
from bertpress.study.weighing import ranks_agree

BERT_BASE = uniform(layers=12, hidden_size=768, heads=12, ffn=3072)
FIGURE_TOKENS = 256
POINT = 1.0


def _share(blueprint: Blueprint, component: str, macs: bool) -> float:
    counts = blueprint.macs(FIGURE_TOKENS) if macs else blueprint.parameters()
    return counts[component] / sum(counts.values())


def ffn_dominates(claim: Claim, _: Evidence) -> Verdict:
    """From BERT-base's shape."""
    shares = [_share(BERT_BASE, "ffn", macs) for macs in (False, True)]
    words = [f"{100 * share:.1f} % of the {what}" for share, what in zip(shares, ("parameters", "MACs"), strict=True)]
    return settled(claim, 100 * min(shares), min(shares) > 0.5, unit="percent", evidence=words)


def embeddings_are_light(claim: Claim, _: Evidence) -> Verdict:
    """From BERT-base's shape."""
    parameters, macs = BERT_BASE.parameters()["embeddings"], BERT_BASE.macs(FIGURE_TOKENS)["embeddings"]
    share = 100 * parameters / BERT_BASE_PARAMETERS
    words = [f"{share:.1f} % of the parameters", f"{macs} MACs"]
    return settled(claim, share, 20 < share < 23 and macs == 0, unit="percent", evidence=words)


def sparse_encoder(claim: Claim, _: Evidence) -> Verdict:
    """From BERT-base's shape."""
    parts = BERT_BASE.parameters()
    encoder = sum(parts[name] for name in ("attention_in", "attention", "attention_out", "ffn"))
    left = 100 * (BERT_BASE_PARAMETERS - 0.97 * encoder) / BERT_BASE_PARAMETERS
    words = ["zeros stored free of charge, embeddings and pooler whole"]
    return settled(claim, left, abs(left - 23.8) < POINT, unit="percent", evidence=words)


def _parts(profile: Mapping[str, Any]) -> dict[str, list[float]]:
    """Samples of every component, in milliseconds."""
    return {name: numbers(part, "latency_ms", "samples") for name, part in mapping(profile, "components").items()}


def ffn_takes_time(claim: Claim, evidence: Evidence) -> Verdict:
    """From profiles: what the feed-forward units take more than the next component, a value for each round."""
    leads, models = [], []
    for profile in evidence.on("cpu"):
        parts, whole = _parts(profile), numbers(profile, "latency_ms", "samples")
        others = zip(*(found for name, found in parts.items() if name != "ffn" and found), strict=False)
        rounds = zip(parts.get("ffn", ()), others, whole, strict=False)
        leads += [100 * (ffn - max(rest)) / total for ffn, rest, total in rounds if total > 0]
        models.append(text(profile, "model") or "")
    return decide(claim, leads, unit="percent of the time", evidence=models)


def time_follows_macs(claim: Claim, evidence: Evidence) -> Verdict:
    """From runs that were timed, those with integers left out, as their kernels are others."""
    runs = [run for run in evidence.runs if run.macs and run.latency and not run.integers]
    points = [(run.macs or 0.0, run.latency or 0.0) for run in runs]
    return ranks_agree(claim, points, least=0.7, evidence=tuple(dict.fromkeys(run.label for run in runs)))


def attention_on_a_gpu(claim: Claim, evidence: Evidence) -> Verdict:
    """From profiles on a GPU: attention's share of the time less its share of the arithmetic."""
    if not (profiles := evidence.on("cuda")):
        return Verdict(claim=claim, pairs=0, verdict="needs a GPU", unit="percent of the time")
    extra = []
    for profile in profiles:
        share = (number(profile, "components", "attention", "macs") or 0.0) / (number(profile, "macs") or 1.0)
        times = zip(_parts(profile).get("attention", ()), numbers(profile, "latency_ms", "samples"), strict=False)
        extra += [100 * (attention / whole - share) for attention, whole in times if whole > 0]
    return decide(claim, extra, unit="percent of the time", evidence=[text(each, "model") or "" for each in profiles])


def few_pieces(claim: Claim, evidence: Evidence) -> Verdict:
    """From the texts of the tasks; the worst of them is weighed."""
    shares = {
        task: 100 * share
        for task, found in evidence.vocabularies.items()
        if (share := number(found, "coverage", "5000")) is not None
    }
    if not shares:
        return decide(claim, [], unit="percent")
    words = [f"{task}: {share:.1f} % of the tokens" for task, share in shares.items()]
    return settled(claim, min(shares.values()), min(shares.values()) >= 94, unit="percent", evidence=words)


def embeddings_dominate(claim: Claim, evidence: Evidence) -> Verdict:
    """From the shapes of recurrent students; the one with the smallest share is weighed."""
    shares = {}
    for run in evidence.runs:
        whole, rest = (number(run.data, "artifact", key) for key in ("parameters", "parameters_without_embeddings"))
        if whole and rest is not None and run.mixes("lstm"):
            shares[run.label] = 100 * (1 - rest / whole)
    if not shares:
        return decide(claim, [], unit="percent")
    words = [f"{label}: {share:.0f} % of the parameters" for label, share in shares.items()]
    return settled(claim, min(shares.values()), min(shares.values()) > 50, unit="percent", evidence=words)
