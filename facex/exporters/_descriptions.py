"""What a file, its image and its outputs are, in words and for tools: the text of TFLite and of Core ML metadata."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass


class Content(enum.Enum):
    """What the values of a tensor are to a tool."""

    IMAGE = "image"
    FEATURE = "feature"
    BOX = "bounding box"


@dataclass(frozen=True, kw_only=True)
class Description:
    """One input or output.

    Attributes:
        text: for people, with the unit.
        content: what its values are.
        low, high: bounds of its values; None where it has none.
        rows: whether it is a list: [1, rows, values of one].
    """

    text: str
    content: Content = Content.FEATURE
    low: float | None = None
    high: float | None = None
    rows: bool = True


IMAGE = Description(
    text="RGB photograph, 0 to 255, resized with the aspect kept and padded at the bottom and right",
    content=Content.IMAGE,
    low=0.0,
    high=255.0,
    rows=False,
)

_OUTPUTS = {
    "boxes": Description(text="x1 y1 x2 y2 of a face, pixels of the input image", content=Content.BOX),
    "scores": Description(text="probability of a face, 0 to 1", low=0.0, high=1.0, rows=False),
    "landmarks": Description(text="x y of every landmark point, pixels of the input image"),
    "count": Description(text="number of faces found", rows=False),
    "loc": Description(text="box offsets as the network gives them, in units of the prior and the variances"),
    "conf": Description(text="probability of background and of a face, 0 to 1", low=0.0, high=1.0),
    "landm": Description(text="landmark offsets as the network gives them, in units of the prior and the variances"),
    "mesh": Description(text="mesh code as the network gives it, no unit"),
}
_ORDER = {"decoded": "a row a prior", "raw": "a row a prior", "detections": "best score first, zero from count on"}
"""Head -> what the rows of its outputs are."""

_USE = {
    "decoded": "Keep the rows that score enough, then suppress overlapping boxes.",
    "raw": "Decode by the priors of the contract, keep what scores enough, then suppress overlapping boxes.",
    "detections": "Rows beyond the count are no faces.",
}
"""Head -> what is left to the app."""


def output(name: str, head: str) -> Description:
    """An output of a head; nothing is known of those of a file without one.

    Raises:
        LookupError: no head has such an output.
    """
    if head not in _ORDER:
        return Description(text="", rows=False)
    found = _OUTPUTS[name]
    return found if name == "count" else dataclasses.replace(found, text=f"{found.text}; {_ORDER[head]}")


def model(metadata: Mapping[str, str]) -> tuple[str, str]:
    """Name and description of a model, from what `_pivot.metadata` says of it."""
    contract = json.loads(metadata.get("facex.contract", "{}"))
    what = ", ".join(contract[key] for key in ("family", "backbone") if key in contract)
    points = f" with {contract['landmarks']} landmarks" if "landmarks" in contract else ""
    use = _USE.get(metadata.get("facex.head", ""), "")
    name = f"Face detector ({what})" if what else "Face detector"
    return name, f"Face detector{points}, converted by facex. {use}".rstrip()
