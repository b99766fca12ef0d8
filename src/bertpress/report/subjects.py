"""Who was measured: the baseline, the artifact on each engine, and other candidates."""

from collections.abc import Callable
from dataclasses import dataclass

from bertpress.report import comparison, numerals
from bertpress.report.numerals import NOT_MEASURED
from bertpress.report.reading import Results, items, mapping, number, text

LONGEST_LABEL = 26


def shortened(label: str, room: int = LONGEST_LABEL) -> str:
    """A label of at most so many letters.

    >>> shortened("FastBERT", 8), shortened("FastBERT", 5)
    ('FastBERT', 'Fast…')
    """
    return label if len(label) <= room else f"{label[: room - 1]}…"


@dataclass(frozen=True)
class Subject:
    """One thing that was measured."""

    name: str
    role: str
    """"baseline", "artifact", "engine" (the artifact on another engine) or "candidate"."""
    data: Results

    @property
    def engine(self) -> str:
        """The engine that ran it."""
        return text(self.data, "engine") or NOT_MEASURED

    @property
    def label(self) -> str:
        """A short label for charts: "baseline", the artifact's engine, or a candidate's name."""
        if self.role == "baseline":
            return "baseline"
        label = self.name if self.role == "candidate" else text(self.data, "engine") or self.name
        return shortened(label)


def subjects(results: Results) -> list[Subject]:
    """Everything that was measured, the baseline first, the artifact on its own engine second.

    The artifact's entry under its own engine is the same thing measured once: the two are merged.
    """
    baseline, artifact = mapping(results, "baseline"), mapping(results, "artifact")
    found = [Subject(text(baseline, "name") or "baseline", "baseline", baseline)] if baseline else []
    name, own = text(artifact, "name") or "artifact", text(artifact, "engine")
    engines = mapping(artifact, "engines")
    if artifact:
        found.append(Subject(name, "artifact", {**artifact, **mapping(engines, own or "")}))
    for engine in engines:
        if engine != own:
            found.append(Subject(name, "engine", {"engine": engine, **mapping(engines, engine)}))
    for candidate in items(results, "candidates"):
        data = mapping(candidate)
        found.append(Subject(text(data, "name") or "candidate", "candidate", data))
    return found


COLUMNS: dict[str, Callable[[Results], str]] = {
    "File": lambda data: numerals.size(number(data, "weight_bytes")),
    "Median": lambda data: numerals.milliseconds(number(data, "latency_ms", "median")),
    "p90": lambda data: numerals.milliseconds(number(data, "latency_ms", "p90")),
    "Model alone": lambda data: numerals.milliseconds(number(data, "model_latency_ms", "median")),
    "Throughput": lambda data: numerals.rate(number(data, "throughput_per_s")),
    "Peak memory": lambda data: numerals.size(number(data, "peak_memory_bytes")),
    "Metric": comparison.metric,
    "Change, points": lambda data: comparison.drop(data).replace(" points", ""),
    "Speed-up": comparison.speedup_words,
}
"""The table of engines: a heading and how its cell is read from a subject's data."""


def cells(subject: Subject) -> list[str]:
    """A subject's line in the table of engines; the baseline is what change and speed-up refer to."""
    reference = {"Change, points": "", "Speed-up": "1"} if subject.role == "baseline" else {}
    return [reference.get(heading, read(subject.data)) for heading, read in COLUMNS.items()]
