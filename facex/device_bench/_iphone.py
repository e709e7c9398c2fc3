"""An iPhone or iPad at this Mac, through coremltools' remote devices: a runner app that Xcode builds and signs.

The runner takes arrays and no pictures, so a phone is handed a copy of the file whose `image` is declared as the array
that its program takes anyway.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from facex.errors import DeviceError, UsageError, first_line
from facex.types import DeviceFile

NOTES = ("the image is handed over as an array: what making one of a camera's picture takes is not in the time",)
TEAM = "DEVELOPMENT_TEAM"
"""Environment variable: the team that signs the runner, as Xcode calls it."""


def find(name: str) -> Any:
    """The connected phone of a name, an identifier or a UDID.

    Raises:
        UsageError: there is none, there are several, or it is not connected; lists those that are.
    """
    from coremltools.models.ml_program.experimental.remote_device import Device, DeviceState, DeviceType

    others = [d for d in Device.get_devices() if d.type is not DeviceType.MAC]
    found = [d for d in others if name in (d.name, d.identifier, d.udid)]
    if len(found) > 1:
        raise UsageError(f"--device apple:{name}: {len(found)} devices have this name", hint="give the UDID of one")
    ready = ", ".join(sorted(d.name for d in others if d.state is DeviceState.CONNECTED)) or "none"
    if not found:
        raise UsageError(f"--device apple:{name}: no such device", hint=f"connected to this Mac: {ready}")
    if found[0].state is not DeviceState.CONNECTED:
        raise UsageError(
            f"--device apple:{name}: is {found[0].state.value}",
            hint=f"connect it, unlock it and trust this Mac; connected: {ready}",
        )
    return found[0]


@contextlib.asynccontextmanager
async def prepared(phone: Any) -> AsyncIterator[Any]:
    """The phone with coremltools' runner started on it, which is stopped again.

    Raises:
        DeviceError: the runner was not started.
    """
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials

    with tempfile.TemporaryDirectory() as folder:
        credentials = AppSigningCredentials(development_team=os.environ.get(TEAM, ""))
        try:
            device = await phone.prepare_for_model_debugging(credentials=credentials, working_directory=Path(folder))
        # whatever devicectl, xcodebuild or their output lead coremltools to
        except Exception as error:
            raise DeviceError(
                f"coremltools' runner was not started: {type(error).__name__}: {first_line(error)}",
                hint=f"Xcode must be able to sign it: set {TEAM} to your team's identifier, and unlock the phone",
            ) from error
        try:
            yield device
        finally:
            device.session.stop()


def opened(file: DeviceFile, units: str) -> Any:
    """The file in Core ML, its image declared as an array."""
    import coremltools

    model = coremltools.models.MLModel(str(file.path), skip_model_load=True)
    return coremltools.models.MLModel(
        with_array(model.get_spec()),
        weights_dir=model.weights_dir,
        compute_units=getattr(coremltools.ComputeUnit, units),
    )


def with_array(spec: Any) -> Any:
    """Before: an `image` of pixels. After: float32 [1, 3, H, W], 0-255, RGB, as the program takes it."""
    from coremltools.proto import FeatureTypes_pb2

    changed = type(spec)()
    changed.CopyFrom(spec)
    (image,) = changed.description.input
    height, width = image.type.imageType.height, image.type.imageType.width
    image.type.Clear()
    image.type.multiArrayType.dataType = FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    image.type.multiArrayType.shape.extend((1, 3, height, width))
    return changed


def array_of(picture: Any) -> Any:
    """An RGB picture as float32 [1, 3, H, W]."""
    import numpy as np

    return np.ascontiguousarray(np.asarray(picture, dtype=np.float32).transpose(2, 0, 1)[None])


async def plan(model: Any, units: str, device: Any) -> Any:
    """Where Core ML on the phone would run every operation."""
    import coremltools
    from coremltools.models.ml_program.experimental.compute_plan_utils import load_compute_plan_from_path_on_device

    return await load_compute_plan_from_path_on_device(
        path=model.get_compiled_model_path(), compute_units=getattr(coremltools.ComputeUnit, units), device=device
    )


def facts(phone: Any) -> dict[str, str]:
    """What it says of itself, without what identifies it: its name is often that of a person."""
    return {"type": phone.type.value, "os": phone.os_version, "os_build": phone.os_build_number}


def described(phone: Any) -> str:
    """What latencies call it, likewise."""
    return f"apple: {phone.type.value}, OS {phone.os_version}"
