"""What the page shows beside the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from facex.sightings import Sightings
from facex.types import FileFacts

if TYPE_CHECKING:
    from facex.calibration.insight import Insight


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A photograph as the page shows it.

    Attributes:
        webp: the picture.
        width: in pixels.
        height: likewise.
        scale: its pixels per pixel of the upright photograph.
    """

    webp: bytes
    width: int
    height: int
    scale: float


@dataclass(frozen=True, kw_only=True)
class Exhibits:
    """Everything that is drawn, gathered before; without any of it the page has the figures of the manifest alone.

    Attributes:
        facts: artifact -> what the file says of itself.
        sightings: name of a run -> what it saw.
        thumbnails: photograph of a scene -> its picture; of scenes without one, no picture is shown.
        insights: a quantization plan in words -> what it does to every tensor, or why that is not shown.
    """

    facts: Mapping[str, FileFacts] = field(default_factory=dict)
    sightings: Mapping[str, Sightings] = field(default_factory=dict)
    thumbnails: Mapping[Path, Thumbnail] = field(default_factory=dict)
    insights: Mapping[str, Insight | str] = field(default_factory=dict)
