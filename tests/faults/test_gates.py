import ast
from pathlib import Path

import pytest

from tests.faults import score
from tests.faults.__main__ import PAGE, outcomes, table
from tests.faults.gates import GATES

TESTS = Path(__file__).parents[1]
ALL = (
    *("R1", "R2", "R3", "R4", "R6", "R7", "R8", "R10", "R11", "R14"),
    *("C1", "C2", "C3", "C4", "C5", "C6", "C7", "C10", "C11"),
    *("D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10", "D12"),
    *("U1", "U3", "U4", "U5"),
)


def test_every_gate_is_there_and_every_test_of_it() -> None:
    assert tuple(gate.name for gate in GATES) == ALL
    assert len(ALL) == 34
    for gate in GATES:
        for test in gate.tests:
            file, _, name = test.partition("::")
            tree = ast.parse((TESTS / file).read_text())
            names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert not name or name in names, (gate.name, test)


def test_the_page_has_the_score() -> None:
    text = PAGE.read_text()
    for line in table(list(GATES), list(GATES)):
        assert line.rpartition(" | ")[0] in text


def test_counts_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert score.total(tmp_path / "none") == {}
    monkeypatch.delenv(score.FILE, raising=False)
    score.add(kills=1)
    assert score.scaled(2, 100) == 2
    monkeypatch.setenv(score.FILE, str(tmp_path / "counts"))
    score.add(kills=1, survived=True)
    score.add(kills=2, hangs=0)
    assert score.scaled(2, 100) == 100
    assert score.total(tmp_path / "counts") == {"kills": 3, "survived": 1, "hangs": 0}


def test_a_test_passes_when_all_its_cases_do(tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    file.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.train.test_a" name="test_one[1]"/>'
        '<testcase classname="tests.train.test_a" name="test_one[2]"><failure/></testcase>'
        '<testcase classname="tests.test_b" name="test_two"/>'
        '<testcase classname="tests.test_b" name="test_three"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    assert outcomes(file) == {
        "train/test_a.py": False,
        "train/test_a.py::test_one": False,
        "test_b.py": False,
        "test_b.py::test_two": True,
        "test_b.py::test_three": False,
    }
