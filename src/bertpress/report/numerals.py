"""Numbers as people read them: three significant digits, decimal units, signs where they matter.

Every function takes None for "not measured" and says so. The text is ASCII, for terminals and Markdown;
``typeset`` turns it into good typography for a page.
"""

import math
import re

NOT_MEASURED = "not measured"
PREFIXES = ("", "k", "M", "G", "T", "P")


def significant(value: float, digits: int = 3) -> str:
    """Round to so many significant digits; with an exponent only below a ten-thousandth.

    >>> significant(0.8234), significant(12.345), significant(1234.5), significant(9.999)
    ('0.823', '12.3', '1,230', '10.0')
    """
    rounded = float(f"{value:.{digits - 1}e}")  # first, so that 9.999 counts as two digits before the point
    if not rounded:
        return "0"
    exponent = math.floor(math.log10(abs(rounded)))
    if exponent < -4:
        return f"{rounded / 10.0**exponent:.{digits - 1}f}e{exponent}"
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}"


def _scaled(value: float, digits: int) -> tuple[float, str]:
    """Divide by the largest power of 1000 that leaves at least 1 after rounding."""
    rounded = abs(float(f"{value:.{digits - 1}e}"))
    power = min(len(PREFIXES) - 1, max(0, math.floor(math.log10(rounded) / 3 + 1e-12))) if rounded else 0
    return value / 1000**power, PREFIXES[power]


def count(value: float | None) -> str:
    """Parameters: two decimals of thousands or millions, as model cards print them.

    >>> count(109_482_240), count(897), count(None)
    ('109.48 M', '897', 'not measured')
    """
    if value is None:
        return NOT_MEASURED
    scaled, prefix = _scaled(value, 5)
    return f"{scaled:,.2f} {prefix}" if prefix else f"{scaled:,.0f}"


def quantity(value: float | None, unit: str = "") -> str:
    """Three significant digits and a decimal prefix.

    >>> quantity(2_786_000_000), quantity(90_900_000, "B"), quantity(512, "B")
    ('2.79 G', '90.9 MB', '512 B')
    """
    if value is None:
        return NOT_MEASURED
    scaled, prefix = _scaled(value, 3)
    figure = significant(scaled) if prefix or value != int(value) else f"{value:,.0f}"
    return f"{figure} {prefix}{unit}".rstrip()


def size(value: float | None) -> str:
    """Bytes, in decimal units: ``23.3 MB`` is 23.3 million bytes."""
    return quantity(value, "B")


def milliseconds(value: float | None) -> str:
    """A latency; from ten seconds on in seconds.

    >>> milliseconds(1.3456), milliseconds(0.0423), milliseconds(12_300)
    ('1.35 ms', '0.0423 ms', '12.3 s')
    """
    if value is None:
        return NOT_MEASURED
    return f"{significant(value / 1000)} s" if value >= 10_000 else f"{significant(value)} ms"


def duration(seconds: float | None) -> str:
    """A span of time to the second.

    >>> duration(42.3), duration(192), duration(3840)
    ('42 s', '3 min 12 s', '1 h 04 min')
    """
    if seconds is None:
        return NOT_MEASURED
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def rate(value: float | None) -> str:
    """Examples a second."""
    return NOT_MEASURED if value is None else f"{significant(value)}/s"


def percent(share: float | None) -> str:
    """A fraction as a percentage: two significant digits below ten percent, none behind the point above.

    >>> percent(0.218), percent(0.0534), percent(0.0004)
    ('22 %', '5.3 %', '<0.1 %')
    """
    if share is None:
        return NOT_MEASURED
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{share * 100:.1f} %" if 0 < share < 0.0995 else f"{share * 100:.0f} %"


def times(ratio: float | None) -> str:
    """A ratio: one decimal below ten, none above.

    >>> times(3.913), times(35.2)
    ('3.9x', '35x')
    """
    if ratio is None:
        return NOT_MEASURED
    return f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:,.0f}x"


def change(ratio: float | None, better: str, worse: str, same: str) -> str:
    """Put a ratio (above 1 is better) into words.

    >>> change(3.9, "smaller", "larger", "same size"), change(0.5, "smaller", "larger", "same size")
    ('3.9x smaller', '2.0x larger')
    """
    if ratio is None or ratio <= 0:
        return NOT_MEASURED
    magnitude = max(ratio, 1 / ratio)
    if times(magnitude) == "1.0x":
        return same
    return f"{times(magnitude)} {better if ratio > 1 else worse}"


def signed(value: float) -> str:
    """One decimal with its sign; zero has none.

    >>> signed(0.31), signed(-1.2), signed(-0.04)
    ('+0.3', '-1.2', '0.0')
    """
    shown = f"{value:+.1f}"
    return "0.0" if shown in {"+0.0", "-0.0"} else shown


def interval(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A score in percent with its 95 % interval: ``91.3 [89.4, 93.1]``."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.1f}" if low is None or high is None else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def points(drop: float | None, low: float | None = None, high: float | None = None) -> str:
    """A drop (teacher minus artifact) as the change that it is to the reader: a loss is negative.

    >>> points(0.4, -0.3, 1.2)
    '-0.4 points [-1.2, +0.3]'
    """
    if drop is None:
        return NOT_MEASURED
    bounds = "" if low is None or high is None else f" [{signed(-high)}, {signed(-low)}]"
    return f"{signed(-drop)} points{bounds}"


def exact(value: float | None) -> str | None:
    """All digits, for whoever hovers over a rounded figure; None when there is nothing to add."""
    if value is None:
        return None
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def typeset(ascii_text: str) -> str:
    """Real minus and times signs; units do not part from their numbers, nor bounds from each other."""
    better = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", ascii_text)
    better = re.sub(r"(?<=\d)x\b", "\N{MULTIPLICATION SIGN}", better)
    better = re.sub(r"(?<=\d), (?=[^\[\]]*\])", ",\N{NO-BREAK SPACE}", better)
    return re.sub(r"(?<=\d) (?=(?:[kMGTP]?B?|ms|s|%|min|h)(?:$|[ ,)]))", "\N{NO-BREAK SPACE}", better)
