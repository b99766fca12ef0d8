"""Training curves: one small chart for each term, since terms live on different scales."""

from collections.abc import Sequence

from bertpress.report.charts import axes
from bertpress.report.markup import Markup, element
from bertpress.report.numerals import significant, typeset

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 170, 44, 292, 14, 140
MOST_POINTS = 150


def curve(name: str, steps: Sequence[float], values: Sequence[float], *, role: str = "term") -> Markup:
    """Draw one series over the training steps, with its last value in the caption.

    Args:
        name: what the values are.
        steps: at least one, ascending.
        values: as many as steps.
        role: "total" or "term"; decides the colour.
    """
    each = averaged(steps, values)
    across = axes.linear(steps, LEFT, RIGHT, ticks=4, zero=True)
    upward = axes.fitting(values, BOTTOM, TOP, ticks=4)
    path = "L".join(f"{across(step):.1f} {upward(value):.1f}" for step, value in each)
    last = each[-1]
    drawing = [
        *axes.beside(upward, LEFT, RIGHT, axes.plain),
        *axes.below(across, BOTTOM, TOP, axes.plain, grid=False),
        element("path", d=f"M{path}", class_="line"),
        [
            element(
                "circle",
                element("title", typeset(f"step {step:,.0f}: {significant(value)}")),
                cx=across(step),
                cy=upward(value),
                r=6,
                class_="target",
            )
            for step, value in each
        ],
        element("circle", cx=across(last[0]), cy=upward(last[1]), r=3, class_="last"),
    ]
    return element(
        "figure",
        element(
            "figcaption",
            element("strong", name),
            element("span", typeset(f" {significant(values[0])} → {significant(values[-1])}"), class_="muted"),
        ),
        element("svg", drawing, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=name, class_="chart curve"),
        class_=f"curve {role}",
    )


def span(records: int) -> int:
    """How many records each point stands for."""
    return max(1, -(-records // MOST_POINTS))


def averaged(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """The points: means of ``span`` neighbours."""
    length = span(len(values))
    groups = [slice(first, first + length) for first in range(0, len(values), length)]
    return [(_mean(steps[group]), _mean(values[group])) for group in groups]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
