"""The whole campaign, and its score in ``docs/reliability.md``.

make faults
python -m tests.faults R1 C3     some gates; nothing is written
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from tests.faults import score
from tests.faults.gates import GATES, Gate

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- score -->\n", "<!-- end of score -->\n"
MINUTES = 20


def main(names: list[str]) -> int:
    """Run the tests of gates once each; print and keep the score."""
    gates = [gate for gate in GATES if gate.name in names or not names]
    wanted = sorted({str(TESTS / test) for gate in gates for test in gate.tests})
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report, counts = Path(folder) / "report.xml", Path(folder) / "counts.jsonl"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "2", f"--junitxml={report}", *wanted],
            env=os.environ | {score.FILE: str(counts)},
            check=False,
        )
        passed = outcomes(report)
        found = score.total(counts)
    minutes = (time.monotonic() - began) / 60
    held = [gate for gate in gates if gate.tests and all(passed.get(t) for t in gate.tests)]
    lines = [
        *table(gates, held),
        "",
        f"- gates passed: **{len(held)} of {len(gates)}**",
        f"- kills survived: **{found['survived']} of {found['kills']}**",
        f"- flipped bits found: **{found['detected']} of {found['flips']}**, "
        f"cut files {found['found']} of {found['cuts']}",
        f"- hangs: **{found['hangs']}**, silent losses: **{found['losses']}**",
        "",
        f"{len(passed)} tests, {minutes:.0f} minutes on two cores.",
        "",
    ]
    sys.stdout.write("\n".join(lines))
    if not names and done.returncode == 0:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n".join(lines) + END + rest.partition(END)[2])
    late = minutes > MINUTES
    lost = found["kills"] - found["survived"] + found["flips"] - found["detected"]
    return int(bool(done.returncode or late or lost or found["hangs"] or found["losses"]))


def outcomes(report: Path) -> dict[str, bool]:
    """Return whether all cases of each test, and of each file, passed."""
    found: dict[str, list[bool]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        place = case.get("classname", "").removeprefix("tests.").replace(".", "/") + ".py"
        good = not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
        found[place].append(good)
        found[f"{place}::{case.get('name', '').partition('[')[0]}"].append(good)
    return {name: all(cases) for name, cases in found.items()}


def table(gates: list[Gate], held: list[Gate]) -> list[str]:
    """Draw one line for each gate."""
    rows = [
        f"| {gate.name} | {gate.fault} | {gate.seen} | {'pass' if gate in held else '**no**'} |"
        for gate in gates
    ]
    return ["| gate | fault | what a user sees | |", "|---|---|---|---|", *rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
