"""The page of one run: a pure function of ``results.json``."""

from collections.abc import Iterator, Mapping

import yaml

from bertpress.report import comparison, exits, pruning, sections, stages, storage, subnetworks
from bertpress.report.document import Section, document
from bertpress.report.markup import Markup, element, join
from bertpress.report.numerals import NOT_MEASURED, interval, milliseconds, size, typeset
from bertpress.report.reading import Results, mapping, number, text


def run_page(results: Results) -> str:
    """Render the results of a run as one HTML page that needs nothing else.

    Args:
        results: what ``results.json`` holds; any key may be missing.

    Returns:
        The page; what is not in the results is said to be not measured.
    """
    task, recipe = (_name(results, key) for key in ("task", "recipe"))
    parts = [
        Section("summary", "Before and after", sections.before_after(results)),
        Section("engines", "Engines", sections.engines(results)),
        Section("trade-offs", "Trade-offs", sections.trade_offs(results)),
        *([Section("sub-networks", "Sub-networks", found)] if (found := subnetworks.subnetworks(results)) else []),
        *([Section("exits", "Early exits", found)] if (found := exits.exits(results)) else []),
        Section("breakdown", "Breakdown", sections.breakdown(results)),
        Section("layers", "Layers", sections.layers(results)),
        *([Section("pruning", "Pruning", pruning.pruning(results))] if pruning.is_shown(results) else []),
        *([Section("storage", "Storage", storage.storage(results))] if storage.is_shown(results) else []),
        Section("latency", "Latency", sections.latencies(results)),
        Section("training", "Training", stages.training(results)),
        Section("environment", "Environment", environment(mapping(results, "environment"))),
        Section("repeat", "Recipe and command", _repeat(results)),
    ]
    title = f"{task}: {comparison.verdict(results)}"
    return document(title, _header(results, task, recipe), parts, _footer(results))


def _name(results: Results, key: str) -> str:
    return text(results, key, "name") or text(results, key) or "not recorded"


def _header(results: Results, task: str, recipe: str) -> Markup:
    threads, seed = (text(results, *path) for path in (("artifact", "threads"), ("seed",)))
    conditions = [threads and f"{threads}\N{NO-BREAK SPACE}threads", seed and f"seed\N{NO-BREAK SPACE}{seed}"]
    note = text(results, "note")
    return join(
        element("p", "Task ", element("strong", task), " · recipe ", element("strong", recipe), class_="eyebrow"),
        element("h1", sections.capital(typeset(comparison.verdict(results)))),
        element(
            "p",
            "Before: ",
            _side(mapping(results, "baseline")),
            ". After: ",
            _side(mapping(results, "artifact")),
            f". {', '.join(filter(None, conditions)).capitalize() or 'Conditions not recorded'}.",
            class_="lead",
        ),
        element("p", note, class_="notice") if note else None,
        element("dl", list(_tiles(results)), class_="tiles"),
    )


def _side(data: Results) -> Markup:
    engine = text(data, "engine")
    return join(element("strong", text(data, "name") or "not named"), f" on {engine}" if engine else None)


def _tiles(results: Results) -> Iterator[Markup]:
    baseline, artifact = mapping(results, "baseline"), mapping(results, "artifact")
    sides = (baseline, artifact)
    sizes = [size(number(side, "weight_bytes")) for side in sides]
    medians = [milliseconds(number(side, "latency_ms", "median")) for side in sides]
    scores = [interval(number(side, "metric", "value")) for side in sides]
    yield _tile("File size", sizes, "as the engine loads it")
    yield _tile("Latency", medians, "median, one text in, label out")
    yield _tile(sections.capital(comparison.metric_name(*sides)), scores, "percent, validation split")


def _tile(name: str, figures: list[str], aside: str) -> Markup:
    before, after = figures
    return element(
        "div",
        element("dt", name),
        element(
            "dd",
            element("span", typeset(f"{before} → "), class_="from") if before != after else None,
            typeset(after),
            class_="to missing" if after == NOT_MEASURED else "to",
        ),
        element("dd", aside, class_="aside"),
        class_="tile",
    )


def environment(facts: Results) -> Markup:
    """The machine and the versions, nested keys joined by dots."""
    pairs = list(flattened(facts))
    return sections.definitions(pairs) if pairs else sections.missing("Environment")


def flattened(facts: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested mappings as (dotted key, text); lists are joined, what is absent says so."""
    if isinstance(facts, Mapping):
        for key, found in facts.items():
            yield from flattened(found, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(facts, (list, tuple)):
        yield prefix, ", ".join(str(item) for item in facts)
    else:
        yield prefix, _shown(prefix, facts)


def _shown(key: str, fact: object) -> str:
    if fact is None:
        return "none"
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return size(number(fact)) if key.endswith("_bytes") else str(fact)


class _Indented(yaml.SafeDumper):
    """Indents the items of a list under its key, as the shipped recipes do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def _repeat(results: Results) -> Markup:
    recipe, command = mapping(results, "recipe"), text(results, "command")
    source = yaml.dump(dict(recipe), Dumper=_Indented, sort_keys=False, allow_unicode=True, width=100)
    return join(
        element("h3", "Command"),
        element("pre", command, class_="command") if command else sections.missing("Command"),
        element("h3", "Recipe, as resolved"),
        element("pre", source) if recipe else sections.missing("Recipe"),
    )


def _footer(results: Results) -> Markup:
    version = text(results, "bertpress") or "(version not recorded)"
    return element(
        "p",
        f"Made by bertpress {version} from results.json, which has the raw samples. ",
        "Scores are in percent; brackets are 95 % bootstrap intervals, paired for the change. ",
        "Sizes are decimal (1 MB = 1,000,000 bytes). FLOPs = 2 × MACs.",
    )
