"""Numbers as a reader wants them: a true minus sign, few digits, a dash for what is not known."""

from saccade.report.results import Number, ProbeRow

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def number(value: Number, digits: int = 2) -> str:
    """Print a number with a fixed count of decimals."""
    return DASH if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def count(value: Number) -> str:
    """Print a whole number with separated thousands."""
    return number(value, 0)


def duration(seconds: Number) -> str:
    """Print a time in the unit that a person would use."""
    if seconds is None:
        return DASH
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def score(row: ProbeRow | None, metric: str = "r2") -> str:
    """Print a score; shares are in percent."""
    value = row[metric] if row else None
    return f"{count(100 * value)} %" if value is not None and metric == "within" else number(value)


def interval(row: ProbeRow | None, metric: str = "r2") -> str:
    """Print the interval of a score, or nothing where there is none."""
    low, high = (row[f"{metric}_{end}"] if row else None for end in ("low", "high"))
    if low is None or high is None:
        return ""
    if metric == "within":
        return f"[{count(100 * low)}, {count(100 * high)}]"
    return f"[{number(low)}, {number(high)}]"


def tolerance(row: ProbeRow) -> str:
    """Print what counts as right, in the unit that a person would use."""
    value = row["tolerance"]
    if value is None:
        return DASH
    scale, unit = {"position": (100, " cm"), "rotation": (57.29578, "°")}.get(row["group"], (1, ""))
    return f"{scale * value:.3g}{unit}"


def short(name: str, length: int = 30) -> str:
    """Shorten a name for a figure; names tend to differ at their ends."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"
