"""TFLite Metadata: what Android Studio, Netron and task libraries show of a file, as a flatbuffer inside the model.

Written by the published schema, `metadata_schema.fbs` of https://github.com/tensorflow/tflite-support, whose field
numbers are the constants here: its generated classes come only in packages that bring or forbid much else.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facex.exporters import _credits, _descriptions
from facex.exporters._descriptions import Content, Description
from facex.types import ShownTensor, StandardMetadata

ENTRY = "TFLITE_METADATA"
IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"
"""Of the schema's history, what is written here needs only the first version; tensor groups would need 1.2.0."""

# tables of the schema: the number of each field that is written, a union taking two (its type first)
MODEL_NAME, MODEL_DESCRIPTION, MODEL_VERSION, MODEL_GRAPHS, MODEL_AUTHOR, MODEL_LICENSE = range(6)
MODEL_MIN_PARSER_VERSION = 7
GRAPH_INPUTS, GRAPH_OUTPUTS = 2, 3
TENSOR_NAME, TENSOR_DESCRIPTION, TENSOR_CONTENT, TENSOR_PROCESS_UNITS, TENSOR_STATS = 0, 1, 3, 4, 5
CONTENT_TYPE, CONTENT_PROPERTIES, CONTENT_RANGE = range(3)
IMAGE_COLOR_SPACE, IMAGE_SIZE = range(2)
SIZE_WIDTH, SIZE_HEIGHT = range(2)
BOX_INDEX, BOX_TYPE, BOX_COORDINATES = range(3)
RANGE_MIN, RANGE_MAX = range(2)
UNIT_TYPE, UNIT_OPTIONS = range(2)
NORMALIZATION_MEAN, NORMALIZATION_STD = range(2)
STATS_MAX, STATS_MIN = range(2)

# values of its enums
PROPERTIES = {Content.FEATURE: 1, Content.IMAGE: 2, Content.BOX: 3}
RGB, BOUNDARIES, PIXEL, NORMALIZATION = 1, 1, 1, 1


@dataclass(frozen=True)
class _Number:
    """A field that is stored in its table: the struct format of its type."""

    value: int
    format: str


class _Writer:
    """Tables from the leaves to the root; what a table refers to is written before it."""

    def __init__(self) -> None:
        import flatbuffers

        self.builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int | None:
        return int(self.builder.CreateString(value)) if value else None

    def floats(self, *values: float) -> int:
        return self._vector(4, values, self.builder.PrependFloat32)

    def unsigned(self, *values: int) -> int:
        return self._vector(4, values, self.builder.PrependUint32)

    def tables(self, *offsets: int) -> int:
        return self._vector(4, offsets, self.builder.PrependUOffsetTRelative)

    def _vector(self, size: int, values: Sequence[Any], prepend: Any) -> int:
        self.builder.StartVector(size, len(values), size)
        for value in reversed(values):
            prepend(value)
        return int(self.builder.EndVector())

    def table(self, fields: Mapping[int, int | _Number | None]) -> int:
        """Field number -> offset of what was written before, or a number; None is left out."""
        present = {number: value for number, value in fields.items() if value is not None}
        slots = {"B": self.builder.PrependUint8Slot, "I": self.builder.PrependUint32Slot}
        self.builder.StartObject(max(present, default=-1) + 1)
        for number, value in present.items():
            if isinstance(value, _Number):
                slots[value.format](number, value.value, 0)
            else:
                self.builder.PrependUOffsetTRelativeSlot(number, value, 0)
        return int(self.builder.EndObject())

    def finish(self, root: int) -> bytes:
        self.builder.Finish(root, IDENTIFIER)
        return bytes(self.builder.Output())


def build(size: tuple[int, int], outputs: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """The flatbuffer for a file with one `image`.

    Args:
        size: height and width of the image, pixels.
        outputs: names, in the order of the file.
        metadata: what the file says of itself: of `_pivot.metadata` and `_credits.entries`.
    """
    writer = _Writer()
    name, description = _descriptions.model(metadata)
    credits, head = _credits.read(metadata), metadata.get("facex.head", "")
    image = _tensor(writer, "image", _descriptions.IMAGE, size)
    results = [_tensor(writer, name, _descriptions.output(name, head)) for name in outputs]
    graph = writer.table({GRAPH_INPUTS: writer.tables(image), GRAPH_OUTPUTS: writer.tables(*results)})
    return writer.finish(
        writer.table({
            MODEL_NAME: writer.text(name),
            MODEL_DESCRIPTION: writer.text(description),
            MODEL_VERSION: writer.text(credits.version),
            MODEL_GRAPHS: writer.tables(graph),
            MODEL_AUTHOR: writer.text(credits.author),
            MODEL_LICENSE: writer.text(credits.license),
            MODEL_MIN_PARSER_VERSION: writer.text(MIN_PARSER_VERSION),
        })
    )  # fmt: skip


def _tensor(writer: _Writer, name: str, about: Description, size: tuple[int, int] | None = None) -> int:
    """One tensor; of an image, with the normalization that is left to the app: none, it is inside the file."""
    units = stats = None
    if about.content is Content.IMAGE:
        options = writer.table({NORMALIZATION_MEAN: writer.floats(0.0), NORMALIZATION_STD: writer.floats(1.0)})
        units = writer.tables(writer.table({UNIT_TYPE: _Number(NORMALIZATION, "B"), UNIT_OPTIONS: options}))
    if about.low is not None and about.high is not None:
        stats = writer.table({STATS_MAX: writer.floats(about.high), STATS_MIN: writer.floats(about.low)})
    return writer.table({
        TENSOR_NAME: writer.text(name),
        TENSOR_DESCRIPTION: writer.text(about.text),
        TENSOR_CONTENT: _content(writer, about, size),
        TENSOR_PROCESS_UNITS: units,
        TENSOR_STATS: stats,
    })  # fmt: skip


def _content(writer: _Writer, about: Description, size: tuple[int, int] | None) -> int:
    """What the values are; a list says that its last axis is one of them."""
    properties = writer.table({})
    if about.content is Content.IMAGE:
        assert size is not None
        height, width = size
        given = writer.table({SIZE_WIDTH: _Number(width, "I"), SIZE_HEIGHT: _Number(height, "I")})
        properties = writer.table({IMAGE_COLOR_SPACE: _Number(RGB, "B"), IMAGE_SIZE: given})
    elif about.content is Content.BOX:
        properties = writer.table({
            BOX_INDEX: writer.unsigned(0, 1, 2, 3),
            BOX_TYPE: _Number(BOUNDARIES, "B"),
            BOX_COORDINATES: _Number(PIXEL, "B"),
        })  # fmt: skip
    last = writer.table({RANGE_MIN: _Number(2, "I"), RANGE_MAX: _Number(2, "I")}) if about.rows else None
    return writer.table({
        CONTENT_TYPE: _Number(PROPERTIES[about.content], "B"),
        CONTENT_PROPERTIES: properties,
        CONTENT_RANGE: last,
    })  # fmt: skip


class _Reader:
    """A table of a flatbuffer; a field that is absent is None or empty."""

    def __init__(self, data: bytes, position: int) -> None:
        from flatbuffers.table import Table

        self._table = Table(data, position)

    @classmethod
    def root(cls, data: bytes) -> _Reader:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _at(self, field: int) -> int:
        """Position of a field, 0 where it is absent."""
        offset = self._table.Offset(4 + 2 * field)
        return self._table.Pos + offset if offset else 0

    def text(self, field: int) -> str:
        at = self._at(field)
        return self._table.String(at).decode("utf-8", "replace") if at else ""

    def byte(self, field: int) -> int:
        at = self._at(field)
        return self._table.Bytes[at] if at else 0

    def table(self, field: int) -> _Reader | None:
        at = self._at(field)
        return _Reader(self._table.Bytes, self._table.Indirect(at)) if at else None

    def tables(self, field: int) -> list[_Reader]:
        offset = self._table.Offset(4 + 2 * field)
        if not offset:
            return []
        first, count = self._table.Vector(offset), self._table.VectorLen(offset)
        return [_Reader(self._table.Bytes, self._table.Indirect(first + 4 * i)) for i in range(count)]


def read(data: bytes) -> StandardMetadata | None:
    """What tools show of a file, from its metadata entry; None where that is no TFLite Metadata or damaged."""
    if data[4:8] != IDENTIFIER:
        return None
    try:
        model = _Reader.root(data)
        graphs = model.tables(MODEL_GRAPHS)
        tensors = [t for g in graphs[:1] for field in (GRAPH_INPUTS, GRAPH_OUTPUTS) for t in g.tables(field)]
        return StandardMetadata(
            format=f"TFLite Metadata, parser {model.text(MODEL_MIN_PARSER_VERSION) or 'unknown'}",
            name=model.text(MODEL_NAME),
            description=model.text(MODEL_DESCRIPTION),
            tensors=tuple(map(_shown, tensors)),
        )
    # what a damaged flatbuffer leads its reader to
    except (struct.error, LookupError, TypeError, ValueError):
        return None


def _shown(tensor: _Reader) -> ShownTensor:
    content = tensor.table(TENSOR_CONTENT)
    kinds = {number: kind.value for kind, number in PROPERTIES.items()}
    kind = kinds.get(content.byte(CONTENT_TYPE), "") if content else ""
    return ShownTensor(name=tensor.text(TENSOR_NAME), content=kind, description=tensor.text(TENSOR_DESCRIPTION))
