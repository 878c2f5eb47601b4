"""Types of parameters and results, for the tests of tool definitions."""

from __future__ import annotations

import dataclasses
import datetime
import enum

import pydantic


class Unit(enum.Enum):
    METRE = "m"
    FOOT = "ft"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(pydantic.BaseModel):
    """A place on the map."""

    title: str
    unit: Unit = Unit.METRE
    day: datetime.date | None = None


@dataclasses.dataclass
class Pair:
    left: float
    right: float
