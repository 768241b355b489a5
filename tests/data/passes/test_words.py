"""One thing is not many."""

import pytest

from saccade.data.passes.words import counted


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (12345, "12,345 files")]
)
def test_numbers_of_things(number: int, told: str) -> None:
    assert counted(number, "file") == told
