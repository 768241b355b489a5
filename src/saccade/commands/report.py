"""``saccade report``."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.errors import DataError
from saccade.report.page import write_report
from saccade.report.results import RESULTS, load_results

PAGES = {  # by the kind of results: module and function; those of a comparison have no kind
    "landscape": ("saccade.report.landscape_page", "write_landscape_report"),
    "planning": ("saccade.report.planning_page", "write_planning_report"),
    "success": ("saccade.report.success_page", "write_success_report"),
}


@dataclass(frozen=True, kw_only=True)
class Command:
    """Rebuild report.html from results.json, without computing anything.

    Example: saccade report runs/compare

    Args:
        runs: folders that ``compare``, ``probe``, ``energy``, ``plan``, ``evaluate`` or ``demo``
            have written.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]


def main(args: list[str]) -> int:
    """Rebuild each report and print its path."""
    if not args:
        print("usage: saccade report FOLDER ...; --help says more")
        return 2
    for folder in tyro.cli(Command, args=args, prog="saccade report").runs:
        print(rebuild(folder).resolve())
    return 0


def rebuild(folder: Path) -> Path:
    """Render the page of a folder's results, of whatever kind they are.

    Raises:
        DataError: the results are missing or malformed, or of a kind that has no page.
    """
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        results = None  # it says below what is wrong
    kind = results.get("kind") if isinstance(results, dict) else None
    if not isinstance(results, dict) or kind is None:
        return write_report(load_results(folder), folder)
    if kind not in PAGES:
        raise DataError(
            f"{folder / RESULTS}: kind is {kind!r}, expected one of {sorted(PAGES)}; use the "
            "version of saccade that wrote it"
        )
    module, function = PAGES[kind]
    return getattr(importlib.import_module(module), function)(results, folder)
