"""Advice in lines for a terminal."""

from collections.abc import Iterator

from bertpress.report import numerals
from bertpress.report.reading import Results, items, mapping, number, text


def advice_lines(found: Results) -> Iterator[str]:
    """Each recipe with what is expected of it and its reasons.

    Args:
        found: what ``advise`` returns.
    """
    for each in map(mapping, items(found, "advice")):
        expected = [
            numerals.size(held) if (held := number(each, "bytes")) is not None else None,
            numerals.milliseconds(time) if (time := number(each, "latency_ms")) is not None else None,
            f"dropped {drop:g} on sst2 here"
            if (drop := number(each, "drop")) is not None
            else "drop not measured here",
            None if mapping(each).get("fits") else "beyond the limits",
        ]
        yield f"{text(each, 'recipe')}: {', '.join(filter(None, expected))}"
        yield from (f"  - {reason}" for reason in items(each, "why"))
