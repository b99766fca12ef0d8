"""What is compared, row by row: one declaration for the page, the terminal and the model card."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bertpress.report import numerals
from bertpress.report.numerals import NOT_MEASURED
from bertpress.report.reading import Results, mapping, number, numbers, text

BERT_BASE_BYTES = 4 * 109_482_240  # float32, the yardstick of the survey


class Measure(NamedTuple):
    """One measured figure: where it stands, how it is shown, and which way is better."""

    label: str
    path: tuple[str, ...]
    show: Callable[[float | None], str]
    words: tuple[str, str]
    """What a better and a worse value is called."""
    higher_is_better: bool = False


class Row(NamedTuple):
    """One line of the before/after table, as text."""

    label: str
    before: str
    after: str
    change: str
    verdict: int = 0
    """1 better, -1 worse, 0 neither or unknown."""
    exact_before: str | None = None
    exact_after: str | None = None


FEWER, SMALLER, FASTER = ("fewer", "more"), ("smaller", "larger"), ("faster", "slower")

COMMON = (
    Measure("Parameters", ("parameters",), numerals.count, FEWER),
    Measure("Parameters without embeddings", ("parameters_without_embeddings",), numerals.count, FEWER),
    Measure("File that the engine loads", ("weight_bytes",), numerals.size, SMALLER),
    Measure("File without embeddings", ("weight_bytes_without_embeddings",), numerals.size, SMALLER),
    Measure("Multiply-accumulates (MACs)", ("macs",), numerals.quantity, FEWER),
    Measure("Latency, text to label, median", ("latency_ms", "median"), numerals.milliseconds, FASTER),
    Measure("Latency, text to label, p90", ("latency_ms", "p90"), numerals.milliseconds, FASTER),
    Measure("Latency, model alone, median", ("model_latency_ms", "median"), numerals.milliseconds, FASTER),
    Measure("Latency, model alone, p90", ("model_latency_ms", "p90"), numerals.milliseconds, FASTER),
    Measure("Throughput", ("throughput_per_s",), numerals.rate, ("higher", "lower"), higher_is_better=True),
    Measure("Peak memory", ("peak_memory_bytes",), numerals.size, ("less", "more")),
)


def rows(results: Results) -> list[Row]:
    """The before/after table, every measured key a row, whether it was measured or not."""
    baseline, artifact = mapping(results, "baseline"), mapping(results, "artifact")
    table = [_measured(measure, baseline, artifact) for measure in COMMON]
    if (tokens := number(artifact, "tokens")) is not None:
        table[4] = table[4]._replace(label=f"{table[4].label}, {tokens:.0f} tokens")
    packed = number(artifact, "artifact_bytes")
    table.insert(4, Row("Packed artifact", "", numerals.size(packed), "", exact_after=numerals.exact(packed)))
    table.insert(5, _against_bert_base(baseline, artifact))
    table.append(_primary_metric(baseline, artifact))
    table.extend(_other_metrics(baseline, artifact))
    table.append(Row("Speed-up, paired", "1", speedup_words(artifact), ""))
    for label, key in (("Engine", "engine"), ("Threads", "threads")):
        before, after = (text(side, key) or NOT_MEASURED for side in (baseline, artifact))
        table.append(Row(label, before, after, ""))
    return table


def _measured(measure: Measure, baseline: Results, artifact: Results) -> Row:
    before, after = number(baseline, *measure.path), number(artifact, *measure.path)
    gain = _ratio(after, before) if measure.higher_is_better else _ratio(before, after)
    words = numerals.change(gain, *measure.words, "same")
    return Row(
        measure.label,
        measure.show(before),
        measure.show(after),
        "" if gain is None else words,
        0 if gain is None or words == "same" else 1 if gain > 1 else -1,
        numerals.exact(before),
        numerals.exact(after),
    )


def _against_bert_base(baseline: Results, artifact: Results) -> Row:
    before, after = (
        numerals.percent(_ratio(number(side, "weight_bytes"), BERT_BASE_BYTES)) for side in (baseline, artifact)
    )
    return Row("File, of BERT-base in float32", before, after, "")


def _primary_metric(baseline: Results, artifact: Results) -> Row:
    name = metric_name(baseline, artifact)
    drop = number(artifact, "drop", "value")
    low, high = (number(artifact, "drop", bound) for bound in ("low", "high"))
    return Row(
        f"Metric: {name}",
        metric(baseline),
        metric(artifact),
        numerals.points(drop, low, high),
        0 if low is None or high is None or low <= 0 <= high else 1 if high < 0 else -1,
    )


def _other_metrics(baseline: Results, artifact: Results) -> Iterator[Row]:
    primary = metric_name(baseline, artifact)
    names = dict.fromkeys([*mapping(baseline, "metrics"), *mapping(artifact, "metrics")])
    for name in names:
        if name == primary:
            continue
        scores = [_score(side, "metrics", name) for side in (baseline, artifact)]
        before, after = (numerals.interval(*score) for score in scores)
        was, became = (score[0] for score in scores)
        fall = "" if was is None or became is None else numerals.points(was - became)
        yield Row(f"Metric: {name}", before, after, fall)


def metric_name(*sides: Results) -> str:
    """What the primary metric is called."""
    return next((name for side in reversed(sides) if (name := text(side, "metric", "name"))), "score")


def metric(data: Results) -> str:
    """The primary metric with its interval."""
    return numerals.interval(*_score(data, "metric"))


def _score(data: Results, *path: str) -> tuple[float | None, float | None, float | None]:
    return number(data, *path, "value"), number(data, *path, "low"), number(data, *path, "high")


def drop(data: Results) -> str:
    """The change of the primary metric against the teacher, in points with its interval."""
    return numerals.points(*_score(data, "drop"))


def speedup(data: Results) -> float | None:
    """Median of paired latency ratios, the baseline's over this one's."""
    return number(data, "speedup")


def speedup_words(data: Results) -> str:
    """The paired speed-up, with its interval where there is one: ``9.1x [8.8, 9.4]``."""
    bounds = numbers(data, "speedup_interval")
    shown = f" [{bounds[0]:.1f}, {bounds[1]:.1f}]" if len(bounds) == 2 else ""
    return numerals.times(speedup(data)) + shown


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def verdict(results: Results) -> str:
    """One sentence: how much smaller, how much faster, and what it costs.

    Size is the file that the engine loads, speed the paired speed-up (the ratio of the medians where the
    pairs are missing), cost the change of the primary metric with its interval.

    >>> verdict({"baseline": {"weight_bytes": 78}, "artifact": {"weight_bytes": 20, "speedup": 9.1,
    ...          "drop": {"value": 0.4, "low": -0.3, "high": 1.2}}})
    '3.9x smaller, 9.1x faster, -0.4 points [-1.2, +0.3]'
    """
    parts = (smaller(results), faster(results), costs(results))
    return ", ".join(parts) if any(NOT_MEASURED not in part for part in parts) else NOT_MEASURED


def smaller(results: Results) -> str:
    """The size part of the verdict."""
    before, after = number(results, "baseline", "weight_bytes"), number(results, "artifact", "weight_bytes")
    words = numerals.change(_ratio(before, after), "smaller", "larger", "same size")
    return f"size {words}" if words == NOT_MEASURED else words


def faster(results: Results) -> str:
    """The speed part of the verdict."""
    medians = [number(results, side, "latency_ms", "median") for side in ("baseline", "artifact")]
    ratio = speedup(mapping(results, "artifact")) or _ratio(*medians)
    words = numerals.change(ratio, "faster", "slower", "same speed")
    return f"speed {words}" if words == NOT_MEASURED else words


def costs(results: Results) -> str:
    """The accuracy part of the verdict."""
    words = drop(mapping(results, "artifact"))
    return f"change of accuracy {words}" if words == NOT_MEASURED else words
