"""TFLite Metadata, read back by a reader of flatbuffers that shares nothing with what wrote it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from facex import exporters
from facex.exporters import _tflite_metadata, tflite
from facex.types import Head, Precision, ShownTensor

# The declarations of the two published schemas that are needed here, in their order, which is what numbers the fields:
# metadata_schema.fbs of tensorflow/tflite-support, and schema.fbs of tensorflow/tensorflow.
METADATA_SCHEMA = """
    union ContentProperties { FeatureProperties, ImageProperties, BoundingBoxProperties, AudioProperties }
    union ProcessUnitOptions { NormalizationOptions, ScoreCalibrationOptions, ScoreThresholdingOptions }
    table FeatureProperties { }
    table ImageSize { width:uint; height:uint; }
    table ImageProperties { color_space:byte; default_size:ImageSize; }
    table BoundingBoxProperties { index:[uint]; type:byte; coordinate_type:byte; }
    table ValueRange { min:int; max:int; }
    table Content { content_properties:ContentProperties; range:ValueRange; }
    table NormalizationOptions { mean:[float]; std:[float]; }
    table ProcessUnit { options:ProcessUnitOptions; }
    table Stats { max:[float]; min:[float]; }
    table TensorMetadata { name:string; description:string; dimension_names:[string]; content:Content;
        process_units:[ProcessUnit]; stats:Stats; associated_files:[AssociatedFile]; }
    table SubGraphMetadata { name:string; description:string; input_tensor_metadata:[TensorMetadata];
        output_tensor_metadata:[TensorMetadata]; associated_files:[AssociatedFile]; input_process_units:[ProcessUnit];
        output_process_units:[ProcessUnit]; input_tensor_groups:[TensorGroup]; output_tensor_groups:[TensorGroup];
        custom_metadata:[CustomMetadata]; }
    table ModelMetadata { name:string; description:string; version:string; subgraph_metadata:[SubGraphMetadata];
        author:string; license:string; associated_files:[AssociatedFile]; min_parser_version:string; }
"""
MODEL_SCHEMA = """
    table QuantizationParameters { min:[float]; max:[float]; scale:[float]; zero_point:[long]; }
    table Tensor { shape:[int]; type:byte; buffer:uint; name:string; quantization:QuantizationParameters; }
    table SubGraph { tensors:[Tensor]; inputs:[int]; outputs:[int]; operators:[Operator]; name:string; }
    table Buffer { data:[ubyte]; }
    table Metadata { name:string; buffer:uint; }
    table Model { version:uint; operator_codes:[OperatorCode]; subgraphs:[SubGraph]; description:string;
        buffers:[Buffer]; metadata_buffer:[int]; metadata:[Metadata]; signature_defs:[SignatureDef]; }
"""
SCALARS = {"byte": "<b", "ubyte": "<B", "int": "<i", "uint": "<I", "long": "<q", "float": "<f"}
TENSOR_TYPES = {0: "FLOAT32", 3: "UINT8"}
NOT_KNOWN = ("AssociatedFile", "TensorGroup", "CustomMetadata", "Operator", "OperatorCode", "SignatureDef")


def declared(schema: str) -> tuple[dict[str, list[str]], dict[str, list[tuple[str, str, int]]]]:
    """Union -> members, and table -> (field, type, number); a union has two numbers, the first of its type."""
    unions, tables = {}, {}
    for kind, name, body in re.findall(r"(union|table) (\w+) \{([^}]*)\}", schema):
        if kind == "union":
            unions[name] = [member.strip() for member in body.split(",")]
            continue
        number, fields = 0, []
        for field, of in re.findall(r"(\w+):(\[?\w+\]?);", body):
            fields.append((field, of, number))
            number += 2 if of in unions else 1
        tables[name] = fields
    return unions, tables


@dataclass(frozen=True)
class Reader:
    """Flatbuffers by https://flatbuffers.dev/internals: a table begins with the way back to its vtable."""

    data: bytes
    unions: dict[str, list[str]]
    tables: dict[str, list[tuple[str, str, int]]]

    @classmethod
    def of(cls, data: bytes, schema: str) -> Reader:
        return cls(data, *declared(schema))

    def root(self, table: str) -> dict[str, Any]:
        return self.table(table, self.number("<I", 0))

    def number(self, form: str, at: int) -> Any:
        assert 0 <= at <= len(self.data) - struct.calcsize(form)
        return struct.unpack_from(form, self.data, at)[0]

    def follow(self, at: int) -> int:
        return at + self.number("<I", at)

    def field(self, table: int, number: int) -> int | None:
        """Position of a field, or None where the table has none of that number."""
        vtable = table - self.number("<i", table)
        size, entry = self.number("<H", vtable), 4 + 2 * number
        offset = self.number("<H", vtable + entry) if entry + 2 <= size else 0
        return table + offset if offset else None

    def table(self, kind: str, at: int) -> dict[str, Any]:
        found = {}
        for name, of, number in self.tables[kind]:
            place = self.field(at, number)
            if of in self.unions:
                value = self.field(at, number + 1)
                if place is not None and value is not None:
                    member = self.unions[of][self.number("<B", place) - 1]  # 0 is NONE
                    found[name] = (member, self.table(member, self.follow(value)))
            elif place is not None:
                found[name] = self.value(of, place)
        return found

    def value(self, of: str, at: int) -> Any:
        if of in SCALARS:
            return self.number(SCALARS[of], at)
        if of.startswith("["):
            start = self.follow(at)
            count, element = self.number("<I", start), of.strip("[]")
            if element in NOT_KNOWN:
                return count
            if element == "ubyte":
                return self.data[start + 4 : start + 4 + count]
            step = struct.calcsize(SCALARS.get(element, "<I"))
            return [self.value(element, start + 4 + step * i) for i in range(count)]
        start = self.follow(at)
        if of == "string":
            count = self.number("<I", start)
            assert self.data[start + 4 + count] == 0
            return self.data[start + 4 : start + 4 + count].decode()
        return self.table(of, start)


def entries(data: bytes) -> dict[str, bytes]:
    """Name -> content of every metadata entry of a TFLite file."""
    assert data[4:8] == b"TFL3"
    model = Reader.of(data, MODEL_SCHEMA).root("Model")
    return {entry["name"]: model["buffers"][entry["buffer"]]["data"] for entry in model["metadata"]}


def parsed(metadata: bytes) -> dict[str, Any]:
    assert metadata[4:8] == b"M001"
    return Reader.of(metadata, METADATA_SCHEMA).root("ModelMetadata")


def android_studio(data: bytes) -> dict[str, list[list[str]]]:
    """The tables that Android Studio's viewer of .tflite files shows, by their headings.

    After its TfliteModelFileEditor and TensorInfo: what is absent is 0 and 1 for mean and std, and blank for the rest.
    """
    model, about = Reader.of(data, MODEL_SCHEMA).root("Model"), parsed(entries(data)["TFLITE_METADATA"])
    ((graph,), (told,)) = model["subgraphs"], about["subgraph_metadata"]
    kinds = {"ImageProperties": "IMAGE", "FeatureProperties": "FEATURE", "BoundingBoxProperties": "BOUNDING_BOX"}

    def row(index: int, tensor: dict[str, Any]) -> list[str]:
        options = [unit["options"][1] for unit in tensor.get("process_units", [])]
        normalization = options[0] if options else {"mean": [0.0], "std": [1.0]}
        stats = tensor.get("stats")
        return [
            tensor["name"],
            kinds[tensor["content"]["content_properties"][0]],
            tensor["description"],
            str(graph["tensors"][index]["shape"]),
            f"{normalization['mean']} / {normalization['std']}",
            f"{stats['min']} / {stats['max']}" if stats else "",
        ]

    rows = {
        "Inputs": [row(*pair) for pair in zip(graph["inputs"], told["input_tensor_metadata"], strict=True)],
        "Outputs": [row(*pair) for pair in zip(graph["outputs"], told["output_tensor_metadata"], strict=True)],
    }
    fields = ("name", "description", "version", "author", "license")
    return {"Model": [[field.title(), about.get(field, "")] for field in fields], **rows}


CONTRACT = json.dumps({"family": "retinaface", "backbone": "mobilenetv1", "landmarks": 5})
OUTPUTS = {
    "decoded": ["boxes", "scores", "landmarks"],
    "raw": ["loc", "conf", "landm", "mesh"],
    "detections": ["boxes", "scores", "landmarks", "count"],
}
KEYS = {"model_author": "Ana Núñez", "model_license": "CC BY 4.0", "model_version": "2.1"}


def built(head: str, **more: str) -> bytes:
    metadata = {"facex.head": head, "facex.contract": CONTRACT, **more}
    return _tflite_metadata.build((120, 160), OUTPUTS[head], metadata)


@pytest.mark.parametrize("head", OUTPUTS)
def test_every_field_is_where_the_published_schema_has_it(head):
    found = parsed(built(head, **KEYS))
    (graph,) = found.pop("subgraph_metadata")
    description = found.pop("description")
    assert found == {
        "name": "Face detector (retinaface, mobilenetv1)",
        "version": "2.1",
        "author": "Ana Núñez",
        "license": "CC BY 4.0",
        "min_parser_version": "1.0.0",
    }
    assert description.startswith("Face detector with 5 landmarks, converted by facex. ")
    assert set(graph) == {"input_tensor_metadata", "output_tensor_metadata"}
    (image,) = graph["input_tensor_metadata"]
    assert image == {
        "name": "image",
        "description": "RGB photograph, 0 to 255, resized with the aspect kept and padded at the bottom and right",
        "content": {
            "content_properties": (
                "ImageProperties",
                {"color_space": 1, "default_size": {"width": 160, "height": 120}},
            )
        },
        "process_units": [{"options": ("NormalizationOptions", {"mean": [0.0], "std": [1.0]})}],
        "stats": {"max": [255.0], "min": [0.0]},
    }
    assert [t["name"] for t in graph["output_tensor_metadata"]] == OUTPUTS[head]
    assert not any("process_units" in t for t in graph["output_tensor_metadata"])


@pytest.mark.parametrize("head", ["decoded", "detections"])
def test_boxes_are_boundaries_in_pixels_one_a_row(head):
    boxes, scores, landmarks, *_ = parsed(built(head))["subgraph_metadata"][0]["output_tensor_metadata"]
    properties = {"index": [0, 1, 2, 3], "type": 1, "coordinate_type": 1}
    last = {"min": 2, "max": 2}
    assert boxes["content"] == {"content_properties": ("BoundingBoxProperties", properties), "range": last}
    assert "stats" not in boxes
    assert scores["content"] == {"content_properties": ("FeatureProperties", {})}
    assert scores["stats"] == {"max": [1.0], "min": [0.0]}
    assert landmarks["content"] == {"content_properties": ("FeatureProperties", {}), "range": last}
    for tensor in (boxes, landmarks):
        assert "pixels of the input image" in tensor["description"]


def test_offsets_of_a_raw_head_are_no_boxes():
    tensors = parsed(built("raw"))["subgraph_metadata"][0]["output_tensor_metadata"]
    assert {t["content"]["content_properties"][0] for t in tensors} == {"FeatureProperties"}
    assert tensors[1]["stats"] == {"max": [1.0], "min": [0.0]}
    assert [("stats" in t) for t in tensors] == [False, True, False, False]


def test_what_is_not_stated_is_not_written():
    found = parsed(built("decoded"))
    assert not {"version", "author", "license"} & set(found)


def test_an_output_that_no_head_has_is_an_error():
    with pytest.raises(LookupError):
        _tflite_metadata.build((8, 8), ["depth"], {"facex.head": "raw"})


def test_it_is_small_and_the_same_every_time():
    assert built("decoded", **KEYS) == built("decoded", **KEYS)
    assert len(built("decoded", **KEYS)) < 1200


@pytest.mark.parametrize("head", OUTPUTS)
def test_facex_reads_what_the_independent_reader_reads(head):
    data = built(head, **KEYS)
    ours, theirs = _tflite_metadata.read(data), parsed(data)
    assert (ours.name, ours.description) == (theirs["name"], theirs["description"])
    assert ours.format == "TFLite Metadata, parser 1.0.0"
    (graph,) = theirs["subgraph_metadata"]
    tensors = [*graph["input_tensor_metadata"], *graph["output_tensor_metadata"]]
    assert [(t.name, t.description) for t in ours.tensors] == [(t["name"], t["description"]) for t in tensors]
    assert ours.tensors[0].content == "image"
    assert ours.tensors[1].content == ("feature" if head == "raw" else "bounding box")


def test_no_cut_or_changed_byte_breaks_its_reader():
    data = built("decoded", **KEYS)
    assert _tflite_metadata.read(b"") is None
    assert _tflite_metadata.read(data[:4] + b"M002" + data[8:]) is None
    for cut in range(8, len(data), 7):
        _tflite_metadata.read(data[:cut])
    for place in range(8, len(data), 5):
        _tflite_metadata.read(data[:place] + b"\xff" + data[place + 1 :])


@pytest.fixture(scope="module")
def exported(make_job: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`exported(precision, head=decoded)` gives the seeded detector's file, written once."""
    folder = tmp_path_factory.mktemp("files")

    def export(precision: Precision, head: Head = Head.DECODED) -> Path:
        path = folder / f"{head}_{precision}.tflite"
        if not path.exists():
            tflite.export(make_job(path, precision, head))
        return path

    return export


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.W8A8])
def test_android_studio_shows_every_tensor_of_an_exported_file(exported, precision):
    tables = android_studio(exported(precision).read_bytes())
    assert tables["Model"] == [
        ["Name", "Face detector (retinaface, mobilenetv1-0.25)"],
        [
            "Description",
            "Face detector with 5 landmarks, converted by facex. "
            "Keep the rows that score enough, then suppress overlapping boxes.",
        ],
        ["Version", ""],
        ["Author", ""],
        ["License", ""],
    ]
    photograph = "RGB photograph, 0 to 255, resized with the aspect kept and padded at the bottom and right"
    unnormalized = "[0.0] / [1.0]"
    assert tables["Inputs"] == [
        ["image", "IMAGE", photograph, "[1, 160, 160, 3]", unnormalized, "[0.0] / [255.0]"],
    ]
    box, score, points = (
        "x1 y1 x2 y2 of a face, pixels of the input image; a row a prior",
        "probability of a face, 0 to 1; a row a prior",
        "x y of every landmark point, pixels of the input image; a row a prior",
    )
    assert tables["Outputs"] == [
        ["boxes", "BOUNDING_BOX", box, "[1, 1050, 4]", unnormalized, ""],
        ["scores", "FEATURE", score, "[1, 1050]", unnormalized, "[0.0] / [1.0]"],
        ["landmarks", "FEATURE", points, "[1, 1050, 10]", unnormalized, ""],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.W8A8])
def test_the_file_keeps_what_it_said_before_and_grows_little(exported, precision):
    data = exported(precision).read_bytes()
    found = entries(data)
    wanted = {"facex.version", "facex.checkpoint_sha256", "facex.contract", "facex.head", "facex.precision"}
    assert wanted <= set(found)
    assert found["facex.precision"].decode() == precision.value
    assert len(found["TFLITE_METADATA"]) < 1200
    model = Reader.of(data, MODEL_SCHEMA).root("Model")
    (graph,) = model["subgraphs"]
    image = graph["tensors"][graph["inputs"][0]]
    assert TENSOR_TYPES[image["type"]] == "UINT8"
    assert "quantization" in image  # Android's extractor reads it of every 8-bit tensor
    shown = exporters.load("tflite").describe(exported(precision)).standard_metadata
    assert shown.tensors[1] == ShownTensor(
        name="boxes",
        content="bounding box",
        description="x1 y1 x2 y2 of a face, pixels of the input image; a row a prior",
    )
