"""Numbers as a reader wants them: a true minus sign, few digits, a dash for what is not known."""

from saccade.report.results import Number, ProbeRow

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
SHARES = ("within", "accuracy", "purity")  # shown in percent
METRICS = {
    "r2": "R²",
    "epe": "EPE, % of side",
    "nmi": "NMI",
    "within": "within tolerance",
}


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


def percent(value: Number) -> str:
    """Print a share in percent."""
    return DASH if value is None else f"{number(100 * value, 0)} %"


def chance_of(value: Number) -> str:
    """Print a p-value; a permutation test cannot resolve very small ones."""
    return "<0.001" if value is not None and value < 0.001 else number(value, 3)


def metric_of(name: str) -> str:
    """Name a metric as a reader would."""
    return METRICS.get(name, name)


def score(row: ProbeRow | None) -> str:
    """Print a score; shares are in percent."""
    if row is None:
        return DASH
    return percent(row["value"]) if row["metric"] in SHARES else number(row["value"])


def interval(row: ProbeRow | None) -> str:
    """Print the interval of a score, or nothing where there is none."""
    if row is None or row["low"] is None or row["high"] is None:
        return ""
    scale, digits = (100, 0) if row["metric"] in SHARES else (1, 2)
    return f"[{number(scale * row['low'], digits)}, {number(scale * row['high'], digits)}]"


def tolerance(row: ProbeRow) -> str:
    """Print what counts as right, in the unit that a person would use."""
    value = row["tolerance"]
    if value is None:
        return DASH
    scale, unit = {"position": (100, " cm"), "rotation": (57.29578, "°")}.get(row["group"], (1, ""))
    return f"{scale * value:.3g}{unit}"


def upper(name: str) -> str:
    """Begin a name with a capital letter and leave the others as they are."""
    return name[:1].upper() + name[1:]


def short(name: str, length: int = 30) -> str:
    """Shorten a name for a figure; names tend to differ at their ends."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"
