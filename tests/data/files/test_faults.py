"""A broken record ends the work, or is counted and has a limit."""

import pytest

from saccade.data.files.faults import Skipped
from saccade.errors import ConfigError, DataError


def test_a_fault_is_raised_at_once_by_default() -> None:
    skipped = Skipped()
    with pytest.raises(DataError, match=r"^record 3 is cut off$"), skipped.guard("record 3"):
        raise DataError("record 3 is cut off")
    assert skipped.found == {}
    skipped.settle(0, "records")


def test_faults_are_listed_up_to_a_limit() -> None:
    skipped = Skipped("skip", 0.5)
    for number in range(4):
        with skipped.guard(f"record {number}"):
            if number % 2:
                raise DataError(f"{number} is odd")
    assert skipped.found == {"record 1": "1 is odd", "record 3": "3 is odd"}
    skipped.settle(4, "records")
    words = r"2 of 3 records are broken, more than the 50.00% .* the first is record 1: 1 is odd"
    with pytest.raises(DataError, match=words):
        skipped.settle(3, "records")


def test_a_limit_of_nothing_holds_for_one_of_many() -> None:
    skipped = Skipped("skip", 0.0)
    skipped.settle(0, "files")
    skipped.add("one", DataError("it is damaged"))
    with pytest.raises(DataError, match="1 of 1000000 files are broken"):
        skipped.settle(10**6, "files")


@pytest.mark.parametrize("most", [-0.1, 1.5, float("nan")])
def test_a_limit_is_a_share(most: float) -> None:
    with pytest.raises(ConfigError, match="expected a share from 0 to 1"):
        Skipped("skip", most)


def test_other_errors_are_not_faults_of_the_data() -> None:
    skipped = Skipped("skip", 1.0)
    with pytest.raises(KeyError), skipped.guard("record"):
        raise KeyError("a mistake of ours")
    assert skipped.found == {}
