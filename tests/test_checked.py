from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from saccade.nn import masking
from saccade.report.text import count
from tests.checked import checked, may_measure

Rows = Float[Tensor, "b d"]


def test_axes_of_one_letter_are_as_long_as_each_other() -> None:
    @checked(typechecker=beartype)
    def first(x: Mapping[str, Rows], y: Rows | None = None) -> Float[Tensor, " b"]:
        return x["a"][:, 0] if y is None else y[:, 0]

    x = torch.zeros(2, 3)
    assert first({"a": x}, x).shape == (2,)
    for wrong in (torch.zeros(2, 4), torch.zeros(3, 3), torch.zeros(2), torch.zeros(2, 3).long()):
        with pytest.raises(TypeCheckError):
            first({"a": x}, wrong)


def test_what_measures_nothing_is_checked_by_beartype() -> None:
    @checked(typechecker=beartype)
    def length(words: Sequence[str], more: int = 0) -> int:
        return len(words) + more if more >= 0 else "negative"  # pyright: ignore

    assert length(["a", "b"], 1) == 3
    wrongs: tuple[Any, ...] = (([1], 0), (["a"], "b"), (["a"], -1))
    for wrong in wrongs:
        with pytest.raises(BeartypeCallHintViolation):
            length(*wrong)


@pytest.mark.parametrize(
    ("hint", "measures"),
    [
        (int, False),
        (dict[str, list[float]] | None, False),
        (Callable[[str], int], False),
        (Rows, True),
        (Mapping[str, tuple[Rows, ...]] | None, True),
        (Callable[[Rows], int], True),
        ("Rows", True),  # a name, which may turn out to be anything
    ],
)
def test_arrays_are_found_wherever_a_hint_has_them(hint: Any, measures: bool) -> None:
    assert may_measure(hint) is measures


def test_the_package_is_checked_so() -> None:
    assert jaxtyping.jaxtyped is checked
    index: Any = torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(TypeCheckError, match=r"masking\.take"):
        masking.take(torch.zeros(3, 4, 5), index)  # two batches
    word: Any = "three"
    with pytest.raises(BeartypeCallHintViolation, match=r"text\.count"):
        count(word)
