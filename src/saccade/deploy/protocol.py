"""What a policy server and its clients say to one another: openpi's messages, and what we add.

On connection the server sends its metadata. A request is one map, and so is an answer:

    observation/<camera>   uint8 [h, w, 3], or [t, h, w, 3] with the history, oldest first
    observation/state      [s], or [t, s]
    prompt                 the instruction
    saccade/frames         optional: "prepared" (default) are squares as the contract says,
                           "upright" are frames as recorded, which the server turns and cuts
    saccade/seed           optional: integers that random numbers come from

    actions [k, a], server_timing {infer_ms, prev_total_ms}

openpi's names ``observation/image`` and ``observation/wrist_image`` mean the first and the second
camera. An error is a text instead of an answer, one sentence after ``error[CODE]:``; the
connection stays open.

https://github.com/Physical-Intelligence/openpi (``src/openpi/serving``, ``openpi-client``)
"""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float32

from saccade.config import from_dict, to_dict
from saccade.data.libero.reader import POSE, STATES
from saccade.deploy.preparation import Moment, Preparation, instruction_of
from saccade.deploy.wire import numbers
from saccade.errors import CheckpointError, ConfigError, DataError, NumericError, SaccadeError
from saccade.types import Contract, Crop, Observation, Orientation

Gripper = Literal["unit", "libero"]  # 1 open 0 closed; or -1 open 1 closed, as robosuite has it
PROTOCOL = 1
ALIASES = ("image", "wrist_image")
STATE, TEXT, FRAMES, SEED = "observation/state", "prompt", "saccade/frames", "saccade/seed"
LONGEST_TEXT, MOST_SEEDS = 4000, 16
ERRORS = {2: ConfigError, 3: DataError, 4: CheckpointError, 6: NumericError}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a server wants to be spoken to.

    Args:
        pictures: the key of each camera, in the order of the contract.
        state: key of the numbers.
        text: key of the instruction.
        gripper: what numbers of a gripper mean in its answers.
    """

    pictures: tuple[str, ...]
    state: str = STATE
    text: str = TEXT
    gripper: Gripper = "unit"


def openpi_libero(chunk: int = 10) -> Contract:
    """Return what openpi's LIBERO policies see.

    The pictures are turned by 180 degrees, which mirrors them; the state is position and rotation
    vector of the hand and two fingers. ``chunk`` is the least that the server answers with: 10
    for pi0.5, 50 for pi0. https://github.com/Physical-Intelligence/openpi (``examples/libero``)
    """
    return Contract(
        cameras=("agentview", "wrist"),
        frame_size=(256, 256),
        image_size=224,
        state_names=STATES["openvla"][1],
        action_names=(*POSE, "gripper"),
        fps=20.0,
        orientation="rot180",
        chunk=chunk,
    )


def openpi_dialect(contract: Contract) -> Dialect:
    """Return how openpi's LIBERO policies are asked: cameras in order, grippers as robosuite's."""
    keys = (_camera_keys(camera, view)[-1] for view, camera in enumerate(contract.cameras))
    return Dialect(pictures=tuple(keys), gripper="libero")


def metadata_of(contract: Contract, gripper: Gripper) -> dict[str, Any]:
    """Return what a server says of itself when a client connects."""
    size, names = contract.image_size, contract.state_names
    moments = f"{contract.history}, " if contract.history > 1 else ""
    request = {
        STATE: f"[{moments}{len(names)}]: {', '.join(names)}",
        TEXT: "the instruction",
        FRAMES: f"optional: prepared, or upright frames of {list(contract.frame_size)}",
        SEED: "optional: integers that random numbers come from",
    }
    for view, camera in enumerate(contract.cameras):
        also = " or ".join(_camera_keys(camera, view))
        request[also] = f"uint8 [{moments}{size}, {size}, 3], {contract.orientation}"
    return {
        "saccade/protocol": PROTOCOL,
        "saccade/contract": to_dict(contract),
        "saccade/digest": contract.digest(),
        "saccade/gripper": gripper,
        "saccade/request": request,
    }


def contract_of(metadata: Mapping[str, Any]) -> tuple[Contract, Dialect] | None:
    """Read what a server of ours says of itself; None if it is another's.

    Raises:
        ConfigError: it speaks another version, or its contract is damaged.
    """
    if "saccade/protocol" not in metadata:
        return None
    if (version := metadata["saccade/protocol"]) != PROTOCOL:
        raise ConfigError(
            f"the server speaks version {version!r:.20} of the protocol, this saccade {PROTOCOL}; "
            "use the same version on both sides"
        )
    record, gripper = metadata.get("saccade/contract"), metadata.get("saccade/gripper")
    kind = f"{Contract.__module__}:{Contract.__qualname__}"
    try:
        if not isinstance(record, dict) or record.get("type") != kind:
            raise TypeError(f"it is a {type(record).__name__}")
        contract = from_dict(record)
        _check_kinds(contract)
        intact = contract.digest() == metadata.get("saccade/digest")
    except (SaccadeError, TypeError, ValueError) as error:
        raise ConfigError(f"the server's contract is damaged ({error!s:.200})") from error
    if not intact or gripper not in ("unit", "libero"):
        raise ConfigError("the server's contract is not the one that its digest names")
    pictures = tuple(f"observation/{camera}" for camera in contract.cameras)
    return contract, Dialect(pictures=pictures, gripper=gripper)


def differences(ours: Contract, theirs: Contract) -> str:
    """Name the fields in which two contracts differ."""
    names = [field.name for field in dataclasses.fields(Contract)]
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in names]
    return "; ".join(f"{name} {a!r} and {b!r}" for name, a, b in pairs if a != b)


def observation_of(request: Any, preparation: Preparation) -> tuple[Observation, tuple[int, ...]]:
    """Read a request: what is seen, and the seed.

    Raises:
        DataError: something is missing, unknown, or not as the contract says.
    """
    contract = preparation.contract
    if not isinstance(request, dict):
        raise DataError(f"the message is a {type(request).__name__}, expected a map")
    keys = [_camera_key(request, contract, view) for view in range(len(contract.cameras))]
    if unknown := sorted(set(request) - {*keys, STATE, TEXT, FRAMES, SEED}):
        raise DataError(
            f"the message has {unknown[0]!r:.60}, which means nothing here; expected are "
            f"{', '.join([*keys, STATE, TEXT])}, {FRAMES} and {SEED}"
        )
    frames = request.get(FRAMES, "prepared")
    if frames not in ("prepared", "upright"):
        raise DataError(f"{FRAMES} is {frames!r:.40}, expected prepared or upright")
    text = instruction_of(request.get(TEXT))
    if len(text) > LONGEST_TEXT:
        raise DataError(f"{TEXT} has {len(text)} letters, at most {LONGEST_TEXT} are read")
    if STATE not in request:
        raise DataError(f"the message lacks {STATE}: {', '.join(contract.state_names)}")
    history, size = contract.history, len(contract.state_names)
    state = request[STATE]
    flat = state.ndim == 1 if isinstance(state, np.ndarray) else not _nested(state)
    state = [state] if history == 1 and flat else state
    states = numbers(state, (history, size), STATE)
    views = [_pictures(request[key], key, contract, frames == "upright") for key in keys]
    moments = [
        _moment(t, dict(zip(contract.cameras, views, strict=True)), states[t], preparation, frames)
        for t in range(history)
    ]
    return preparation.observation(moments, text), _seed(request)


def request_of(
    observation: Observation, seed: tuple[int, ...] | None, contract: Contract, dialect: Dialect
) -> dict[str, Any]:
    """Write a request; moments have an axis where there are several.

    Raises:
        DataError: the observation is not as the contract says.
    """
    video, state = observation["video"], observation["state"]
    size, history = contract.image_size, contract.history
    expected = (1, history, len(contract.cameras), 3, size, size)
    if tuple(video.shape) != expected or video.dtype != torch.uint8:
        raise DataError(
            f"the pictures are {video.dtype}{list(video.shape)}, the server's policy takes "
            f"torch.uint8{list(expected)}; nothing was sent"
        )
    told = numbers(state.cpu().numpy(), (1, history, len(contract.state_names)), STATE)[0]
    pictures = video[0].permute(0, 1, 3, 4, 2).cpu().numpy()
    one = history == 1
    request: dict[str, Any] = {
        key: pictures[0, view] if one else pictures[:, view]
        for view, key in enumerate(dialect.pictures)
    }
    request |= {
        dialect.state: told[0] if one else told,
        dialect.text: instruction_of(observation["text"][0]),
    }
    return request if seed is None else request | {SEED: [int(part) for part in seed]}


def to_wire(
    actions: Float32[np.ndarray, "k a"], contract: Contract, sense: Gripper
) -> Float32[np.ndarray, "k a"]:
    """Turn grippers from our sense, 1 open and 0 closed, into that of the answers."""
    return _scaled(actions, contract, -2.0, 1.0) if sense == "libero" else actions


def from_wire(
    actions: Float32[np.ndarray, "k a"], contract: Contract, sense: Gripper
) -> Float32[np.ndarray, "k a"]:
    """Turn grippers of an answer into our sense."""
    return _scaled(actions, contract, -0.5, 0.5) if sense == "libero" else actions


def error_of(text: str) -> SaccadeError:
    """Return the error that a server's text stands for: ours by its code, others as they are."""
    head, _, sentence = text.partition("]: ")
    code = head.removeprefix("error[")
    if head.startswith("error[") and code.isdigit() and sentence:
        return ERRORS.get(int(code), SaccadeError)(f"the server refused: {sentence}")
    lines = [line for line in text.splitlines() if line.strip()] or ["an empty text"]
    return DataError(f"the server failed: {lines[-1].strip():.300}; its own log says more")


def _check_kinds(contract: Contract) -> None:
    """Refuse a contract from outside whose fields are of other kinds than they should be."""
    texts = (contract.cameras, contract.state_names, contract.action_names, contract.origin)
    sizes = [contract.image_size, contract.history, contract.stride, contract.chunk]
    whole = all(type(size) is int and 0 < size < 2**20 for size in [*sizes, *contract.frame_size])
    rate = isinstance(contract.fps, (int, float)) and 0 < contract.fps < 1e6
    if not (
        whole
        and rate
        and len(contract.frame_size) == 2
        and all(isinstance(part, str) for group in texts for part in group)
        and contract.crop in get_args(Crop)
        and contract.orientation in get_args(Orientation)
    ):
        raise ConfigError(f"{contract!r:.300}")


def _scaled(
    actions: Float32[np.ndarray, "k a"], contract: Contract, factor: float, shift: float
) -> Float32[np.ndarray, "k a"]:
    grippers = [i for i, name in enumerate(contract.action_names) if "gripper" in name]
    scaled = actions.copy()
    scaled[:, grippers] = scaled[:, grippers] * factor + shift
    return scaled


def _camera_keys(camera: str, view: int) -> list[str]:
    names = [f"observation/{name}" for name in (camera, *ALIASES[view : view + 1])]
    return list(dict.fromkeys(names))


def _camera_key(request: Mapping[str, Any], contract: Contract, view: int) -> str:
    camera = contract.cameras[view]
    names = _camera_keys(camera, view)
    found = [name for name in names if name in request]
    if len(found) != 1:
        state = "has both" if found else "lacks"
        raise DataError(f"the message {state} {' and '.join(names)}; send one of camera {camera}")
    return found[0]


def _nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, (list, np.ndarray)) for part in value)


def _pictures(value: Any, key: str, contract: Contract, raw: bool) -> np.ndarray:
    side = contract.image_size
    frame = (*(contract.frame_size if raw else (side, side)), 3)
    if contract.history == 1 and isinstance(value, np.ndarray) and value.shape == frame:
        value = value[None]
    expected = (contract.history, *frame)
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape != expected:
        known = isinstance(value, np.ndarray)
        found = f"{value.dtype}{list(value.shape)}" if known else type(value).__name__
        kind = "upright frames" if raw else f"prepared ({contract.orientation}) squares"
        short = f" or uint8{list(frame)}" if contract.history == 1 else ""
        raise DataError(f"{key} is {found}, expected {kind}, uint8{list(expected)}{short}")
    return value


def _moment(
    t: int,
    views: Mapping[str, np.ndarray],
    state: np.ndarray,
    preparation: Preparation,
    frames: str,
) -> Moment:
    contract = preparation.contract
    if frames == "upright":
        named = dict(zip(contract.state_names, state.tolist(), strict=True))
        return preparation.moment(lambda camera: views[camera][t], named)
    pictures = [torch.from_numpy(view[t].copy()).permute(2, 0, 1) for view in views.values()]
    side = contract.image_size
    video = torch.stack(pictures) if pictures else torch.empty(0, 3, side, side, dtype=torch.uint8)
    return Moment(video=video, state=torch.from_numpy(state.copy()))


def _seed(request: Mapping[str, Any]) -> tuple[int, ...]:
    if SEED not in request:
        return (secrets.randbits(63),)
    given = request[SEED]
    if isinstance(given, np.ndarray) and given.dtype.kind in "iu":
        given = given.tolist()
    if isinstance(given, int):
        given = [given]
    if (
        not isinstance(given, list)
        or len(given) > MOST_SEEDS
        or not all(type(part) is int for part in given)
    ):
        raise DataError(f"{SEED} is {given!r:.60}, expected at most {MOST_SEEDS} integers")
    return tuple(given)
