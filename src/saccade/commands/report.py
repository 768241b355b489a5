"""``saccade report``."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.report.page import write_report
from saccade.report.results import load_results


@dataclass(frozen=True, kw_only=True)
class Command:
    """Rebuild report.html from results.json, without computing anything.

    Example: saccade report runs/compare

    Args:
        runs: folders that ``compare``, ``probe`` or ``demo`` have written.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]


def main(args: list[str]) -> int:
    """Rebuild each report and print its path."""
    if not args:
        print("usage: saccade report FOLDER ...; --help says more")
        return 2
    for folder in tyro.cli(Command, args=args, prog="saccade report").runs:
        print(write_report(load_results(folder), folder).resolve())
    return 0
