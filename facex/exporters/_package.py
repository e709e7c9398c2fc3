"""A saved `.mlpackage`: read by coremltools, and made the same bytes whenever and wherever it is written."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from facex.errors import ArtifactError, first_line
from facex.exporters import info, require
from facex.exporters._quiet import quiet


def load(path: Path) -> tuple[Any, Path]:
    """What a package holds, as coremltools reads it: its spec, and the folder of its weights."""
    require(info("coreml"), info("coreml").packages, f"reading {path.name}")
    if not (path / "Manifest.json").is_file():
        raise ArtifactError(f"{path}: is not an .mlpackage (it holds no Manifest.json)")
    with quiet():
        import coremltools as ct
    try:
        with quiet():
            model = ct.models.MLModel(str(path), skip_model_load=True)
            spec, weights = model.get_spec(), model.weights_dir
    # coremltools raises whatever its protobuf or its package reader meets
    except Exception as error:
        raise ArtifactError(f"{path}: coremltools cannot read it: {first_line(error)}") from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise ArtifactError(f"{path}: is a {spec.WhichOneof('Type')}, not an ML program")
    return spec, Path(weights or path)


def operations(spec: Any) -> list[Any]:
    """Those of the program's main function, in order."""
    function = spec.mlProgram.functions["main"]
    return list(function.block_specializations[function.opset].operations)


def shape(value_type: Any) -> tuple[int, ...]:
    """Of a value, all extents known."""
    return tuple(int(d.constant.size) for d in value_type.tensorType.dimensions)


def finish(path: Path) -> None:
    """Before: constants over and over, map entries in hash order, a date, random identifiers. After: none of that."""
    from coremltools.proto import Model_pb2

    spec_path = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(spec_path.read_bytes())
    _share_constants(spec)
    _name_casts(spec)
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    spec_path.write_bytes(spec.SerializeToString(deterministic=True))
    manifest_path = path / "Manifest.json"
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    renamed = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, f"facex:{item['path']}")).upper()
               for old, item in manifest["itemInfoEntries"].items()}  # fmt: skip
    manifest["itemInfoEntries"] = {renamed[old]: item for old, item in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = renamed[manifest["rootModelIdentifier"]]
    manifest_path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    _usual_modes(path)


def _share_constants(spec: Any) -> None:
    """Before: a constant for every stride, padding and axis, named after its path. After: equal ones are one, numbered.

    A tenth of the file, and exact: the values are the same and of the same type. The names of other operations, which
    performance reports show, stay.
    """
    for function in spec.mlProgram.functions.values():
        block = function.block_specializations[function.opset]
        kept: dict[bytes, str] = {}
        renamed: dict[str, str] = {}
        operations = []
        for operation in block.operations:
            for argument in operation.inputs.values():
                for binding in argument.arguments:
                    if binding.name in renamed:
                        binding.name = renamed[binding.name]
            constant = operation.type == "const" or operation.type.startswith("constexpr_")
            if constant and operation.outputs[0].name not in block.outputs:
                content = [v.SerializeToString(deterministic=True) for k, v in sorted(operation.attributes.items())
                           if k != "name"]  # fmt: skip
                content += [v.SerializeToString(deterministic=True) for _, v in sorted(operation.inputs.items())]
                number, key = f"c{len(kept)}", b"\0".join([operation.type.encode(), *content])
                name = renamed[operation.outputs[0].name] = kept.setdefault(key, number)
                if name != number:
                    continue
                operation.outputs[0].name = name
                operation.attributes["name"].immediateValue.tensor.strings.values[0] = name
            operations.append(operation)
        del block.operations[:]
        block.operations.extend(operations)


def _name_casts(spec: Any) -> None:
    """Before: casts numbered by what the process converted earlier. After: named after their results."""
    for operation in (op for op in operations(spec) if op.type == "cast"):
        operation.attributes["name"].immediateValue.tensor.strings.values[0] = operation.outputs[0].name


def _usual_modes(package: Path) -> None:
    """Before: some files and folders that only their owner can read. After: the permissions that new ones get here."""
    probe = package / "probe"
    probe.mkdir()
    (probe / "file").touch()
    modes = {True: probe.stat().st_mode, False: (probe / "file").stat().st_mode}
    shutil.rmtree(probe)
    for path in (package, *package.rglob("*")):
        path.chmod(modes[path.is_dir()] & 0o777)
