"""Which text an EgoDex episode has, whatever its annotator and its library stored."""

import h5py
import numpy as np
import pytest

from saccade.data.egodex.files import descriptions, text, word_list, wrist_of
from saccade.errors import DataError

BOTH = {"llm_type": "reversible", "llm_description": "open", "llm_description2": "close"}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (BOTH | {"which_llm_description": "1"}, ["open", "close"]),
        (BOTH | {"which_llm_description": "2"}, ["close", "open"]),
        (BOTH | {"which_llm_description": b"2"}, ["close", "open"]),
        (BOTH | {"which_llm_description": np.int64(2)}, ["close", "open"]),
        (BOTH | {"which_llm_description": np.float64(2.0)}, ["close", "open"]),
        (BOTH | {"which_llm_description": np.array(["2"], object)}, ["close", "open"]),
        (BOTH, ["open", "close"]),
        (BOTH | {"which_llm_description": "2", "llm_type": "reset"}, ["open", "close"]),
        (BOTH | {"which_llm_description": "2", "llm_type": np.bytes_("reset")}, ["open", "close"]),
        ({"description": "lift ", "type": "x"}, ["lift"]),
        ({"llm_description": "", "description": "lift"}, ["lift"]),
        ({"llm_description": b"caf\xc3\xa9"}, ["café"]),
        ({"task": "lift"}, []),
    ],
)
def test_the_instruction_is_the_one_that_was_done(attributes: dict, expected: list) -> None:
    assert descriptions(attributes, "0.hdf5") == expected


def test_a_text_of_the_other_direction_is_never_taken() -> None:
    only = {"llm_type": "reversible", "which_llm_description": "2", "llm_description": "open"}
    assert descriptions(only, "0.hdf5") == []
    with pytest.raises(DataError, match=r"0\.hdf5: which_llm_description is '3', expected 1 or 2"):
        descriptions(BOTH | {"which_llm_description": "3"}, "0.hdf5")


def test_attributes_are_text_whatever_they_were() -> None:
    values = {"a": np.True_, "b": h5py.Empty("S1"), "c": 7, "d": np.array([b"x"])}
    assert [text(values, key) for key in "abcde"] == ["True", "", "7", "x", ""]
    assert word_list(np.array([b"add", "remove"], object)) == ["add", "remove"]
    assert word_list("add") == ["add"]
    assert word_list(None) == []


def test_fingers_belong_to_a_hand() -> None:
    assert wrist_of("leftThumbTip") == "leftHand"
    assert wrist_of("rightIndexFingerMetacarpal") == "rightHand"
    assert [wrist_of(joint) for joint in ("leftHand", "rightArm", "hip", "camera")] == [None] * 4
