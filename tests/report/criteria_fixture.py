"""Bars that were set before, one for each way to end."""

from typing import Any

CRITERIA: list[dict[str, Any]] = [
    {
        "name": "flow",
        "bar": "EPE at least 20 % below DINOv2",
        "result": "not asked",
        "detail": "DINOv2 was not among the encoders",
        "episodes_needed": None,
    },
    {
        "name": "order",
        "bar": "two orders told apart at 90 %",
        "result": "undecided",
        "detail": "87 % [84, 90] by two-stream strong",
        "episodes_needed": 140,
    },
    {
        "name": "action",
        "bar": "above the same network untrained",
        "result": "pass",
        "detail": "three of three methods",
        "episodes_needed": None,
    },
    {
        "name": "unseen tasks",
        "bar": "above raw pixel change",
        "result": "fail",
        "detail": "video-mae is not separated from it",
        "episodes_needed": None,
    },
]
