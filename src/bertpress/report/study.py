"""The page of a study: one file with its table, its Pareto fronts, the claims, and what each run has changed."""

from collections.abc import Iterator

from bertpress.report import comparison, sections
from bertpress.report.claims import difference, tally
from bertpress.report.document import Section, document
from bertpress.report.fronts import fronts
from bertpress.report.markup import Markup, element, join
from bertpress.report.numerals import typeset
from bertpress.report.reading import Results, items, mapping, number, text
from bertpress.report.run import environment
from bertpress.report.sections import hint, missing
from bertpress.report.survey_table import DASH, MEASURES, cells, headings, tasks_of

ANSWERS = {"holds": "better", "does not hold here": "worse"}


def study_page(study: Results) -> str:
    """Render ``study.json`` as one HTML page that needs nothing else.

    Args:
        study: any key may be missing.

    Returns:
        The page; links lead to the pages of the runs, which lie beside it.
    """
    parts = [
        Section("table", "Table", _table(study)),
        Section("fronts", "What a point costs", fronts(study)),
        Section("claims", "Claims of the literature", _claims(study)),
        Section("runs", "Runs", _runs(study)),
        Section("environment", "Environment", environment(mapping(study, "environment"))),
    ]
    name = text(study, "study") or "Study"
    runs, failures = len(items(study, "entries")), len(items(study, "failures"))
    summary = text(study, "summary")
    header = join(
        element("p", "bertpress study", class_="eyebrow"),
        element("h1", name),
        element("p", f"{summary} " if summary else "", f"{runs} runs, {failures} failed.", class_="lead"),
    )
    command = text(study, "command")
    footer = join(
        element("p", "Scores are in percent, sizes decimal. Published figures are the papers' own."),
        element("pre", command, class_="command") if command else None,
    )
    return document(name, header, parts, footer)


def _table(study: Results) -> Markup:
    """Sortable by a press on a heading; groups come apart then."""
    lines = [mapping(line) for line in items(study, "table")]
    if not lines:
        return missing("Table")
    tasks = tasks_of(lines)
    head = [
        element("th", element("button", name, type="button"), scope="col", aria_sort="none") for name in headings(tasks)
    ]
    body = [
        element(
            "tr",
            element("th", text(line, "method") or "", _notes(line), scope="row", data_value=text(line, "method")),
            element("td", text(line, "origin") or "", data_value=text(line, "origin")),
            [
                element("td", typeset(shown), class_="missing" if shown == DASH else None, data_value=value)
                for shown, value in zip(cells(line, tasks), _values(line, tasks), strict=True)
            ],
            class_=text(line, "origin"),
        )
        for line in lines
    ]
    table = element("table", element("thead", element("tr", head)), element("tbody", body), class_="study sortable")
    words = (
        "Published rows are the papers' models against BERT-base on their machines; measured rows are ours against our "
        "teacher, on the machine below. Setup: A learns from text without labels, S from the task. Speed is over the "
        "teacher on the same engine, or over the study's reference in float32 on PyTorch. A press on a heading sorts."
    )
    counted = ", ".join(map(str, items(study, "plan", "averaged")))
    means = f" Sizes, speeds and drops are means over {counted}, where a row has run there." if counted else ""
    return join(hint(words + means), element("div", table, class_="scroll", tabindex="0"))


def _notes(line: Results) -> Markup | None:
    told = [text(line, "cite"), *map(str, items(line, "notes"))]
    runs = number(line, "runs")
    words = "; ".join(filter(None, [*told, f"{runs:g} runs" if runs else None]))
    return element("small", words) if words else None


def _values(line: Results, tasks: list[str]) -> Iterator[str | None]:
    """What the cells of a row are sorted by."""
    yield from (text(line, key) for key in ("setup", "device", *MEASURES))
    yield from (text(line, "scores", task) for task in tasks)
    drop = number(line, "drop")
    yield None if drop is None else str(-drop)


def _claims(study: Results) -> Markup:
    """Every claim with its verdict, the interval and what was looked at."""
    found = [mapping(verdict) for verdict in items(study, "claims")]
    if not found:
        return missing("Claims")
    rule = (
        "A claim holds if its whole 95 % interval, over runs that differ in nothing else, lies on its side, does not "
        "if it lies on the other, and needs more runs if it lies on both."
    )
    return join(hint(f"{tally(found)}. {rule}"), [_claim(verdict) for verdict in found])


def _claim(verdict: Results) -> Markup:
    answer = text(verdict, "verdict") or ""
    better, worse = text(verdict, "claim", "better"), text(verdict, "claim", "worse")
    source = ", section ".join(filter(None, [text(verdict, "claim", "cite"), text(verdict, "claim", "section")]))
    return element(
        "details",
        element(
            "summary",
            element("span", answer, class_=f"verdict {ANSWERS.get(answer, 'muted')}"),
            " ",
            text(verdict, "claim", "text") or "",
        ),
        sections.definitions([
            ("Source", source or "not recorded"),
            ("Compared", f"{better}, against {worse}" if worse else better or "not recorded"),
            ("Difference", typeset(difference(verdict))),
            ("Pairs or samples", f"{number(verdict, 'pairs') or 0:g}"),
            ("Evidence", "; ".join(map(str, items(verdict, "evidence"))) or "none"),
        ]),
        class_="claim",
    )  # fmt: skip


def _runs(study: Results) -> Markup:
    """Each run with the breakdown before and after, and what has failed."""
    entries = [mapping(entry) for entry in items(study, "entries")]
    failed = [
        (text(failure, "name") or "", f"{text(failure, 'reason')}; {text(failure, 'said') or 'nothing said'}")
        for failure in items(study, "failures")
    ]
    told = join(element("h3", "Failed"), sections.definitions(failed)) if failed else None
    return join([_run(entry) for entry in entries] or missing("Runs"), told)


def _run(entry: Results) -> Markup:
    label = ", ".join(filter(None, (text(entry, key) for key in ("label", "model", "task"))))
    folder, told = text(entry, "folder"), typeset(comparison.verdict(entry))
    return element(
        "details",
        element("summary", element("strong", f"{label}, seed {text(entry, 'seed')}"), ": ", told),
        element("p", element("a", "The page of this run", href=f"{folder}/report.html")) if folder else None,
        sections.breakdown(entry),
        sections.layers(entry),
        class_="run",
    )  # fmt: skip
