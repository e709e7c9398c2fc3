"""Read a checkpoint file into a flat state dict, trusting nothing in it.

Only `torch.load(weights_only=True)` is used: a checkpoint is never allowed to run code.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex.errors import CheckpointError
from facex.reference import families

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN_KEYS = 3


def sha256(path: Path) -> str:
    """SHA-256 of the file's bytes.

    Raises:
        CheckpointError: the file is missing, a folder, or unreadable.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: no such file")
        if not path.is_file():  # a pipe or a device could be read for ever
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise CheckpointError(f"{path}: is {kind}", hint="name the .pth file itself")
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def read(path: Path) -> dict[str, Tensor]:
    """The checkpoint's state dict, unwrapped, without prefixes, checked tensor by tensor.

    Raises:
        CheckpointError: unreadable, damaged, would run code, holds no state dict, or holds tensors that are
            quantized, not dense or not finite.
    """
    sha256(path)  # its errors name what is wrong with the path itself
    return _checked(path, _without_prefixes(_unwrapped(path, _load(path))))


def _load(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            # deprecations inside torch's own unpickler, about storages and quantized tensors
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if named := re.search(r"GLOBAL ([\w.]+)", text):
            refusal = f"unpickling it would import or run {named[1].rstrip('.')}, which is not tensor data"
        elif "Unsupported operand" in text or "Unsupported class" in text:
            refusal = "unpickling it may run code: it holds more than tensor data"
        else:
            raise CheckpointError(
                f"{path}: not a PyTorch checkpoint, or a damaged one", hint="is the download whole?"
            ) from error
        raise CheckpointError(
            f"{path}: refused: {refusal}",
            hint="save only the state dict: torch.save(model.state_dict(), path)",
        ) from error
    # torch raises whatever its zip reader, its pickle reader or its storage code meets in a damaged file
    except Exception as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: is a TorchScript archive",
                hint="save the state dict: torch.save(model.state_dict(), path)",
            ) from error
        raise CheckpointError(
            f"{path}: not a PyTorch checkpoint, or a truncated one ({type(error).__name__})",
            hint="is the download whole?",
        ) from error


def _unwrapped(path: Path, loaded: Any) -> Mapping[str, Any]:
    import torch

    for _ in range(3):  # wrappers are nested at most this deep in practice
        if not isinstance(loaded, Mapping):
            break
        inner = next((loaded[k] for k in WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping) or not any(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(
            f"{path}: holds no state dict (found {type(loaded).__name__})",
            hint="save one with torch.save(model.state_dict(), path)",
        )
    return loaded


def _without_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    flat = {str(key): value for key, value in state.items()}
    tensors = [key for key, value in flat.items() if isinstance(value, torch.Tensor)]
    while prefix := next((p for p in PREFIXES if tensors and all(key.startswith(p) for key in tensors)), ""):
        flat = {key.removeprefix(prefix): value for key, value in flat.items()}
        tensors = [key.removeprefix(prefix) for key in tensors]
    return flat


def _checked(path: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            # scalars such as an epoch counter beside the weights; packed parameters of quantized modules
            if isinstance(value, (int, float, str, bool, type(None))):
                continue
            raise CheckpointError(f"{path}: '{key}' is a {type(value).__name__}, not a tensor")
        if fault := _fault(key, value):
            raise CheckpointError(f"{path}: '{key}' {fault[0]}", hint=fault[1])
        tensors[key] = value.detach()
    return tensors


def _fault(key: str, value: Tensor) -> tuple[str, str] | None:
    """What makes a tensor unusable, and the hint that goes with it."""
    import torch

    if value.is_quantized:
        dtype = str(value.dtype).removeprefix("torch.")
        return f"is a quantized tensor ({dtype})", "facex quantizes by itself: give the float checkpoint"
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_nested:
        return "is not a dense tensor with its values in the file", "save it with tensor.to_dense().cpu()"
    # an expanded tensor may claim any size at all; looking at its values would allocate that much
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "claims more values than the file holds", "save it with tensor.contiguous()"
    if not value.is_floating_point():
        return None
    if not bool(torch.isfinite(value.to(torch.float32)).all()):
        return "holds values that are not finite in float32", "the training diverged"
    if key.endswith("running_var") and bool((value.to(torch.float32) < 0).any()):
        return "holds negative variances", "the file is damaged"
    return None


def recognise(path: Path, state: Mapping[str, Tensor]) -> families.Structure:
    """The structure of the first family that knows these keys and shapes.

    Raises:
        CheckpointError: none does; the message names the closest one and what differs.
    """
    mismatches = []
    for name in families.names():
        result = families.load(name).recognise(state)
        if isinstance(result, families.Structure):
            _require_float(path, result, state)
            return result
        mismatches.append(result)
    closest = max(mismatches, key=lambda m: m.common)
    differences = [
        f"{word} {_some(keys)}"
        for word, keys in (
            ("missing", closest.missing), ("unexpected", closest.unexpected), ("wrong shape", closest.shapes),
        )
        if keys
    ]  # fmt: skip
    raise CheckpointError(
        f"{path}: not a detector that facex knows; closest is {closest.family} ({closest.layout} keys, "
        f"{closest.common} agree): {'; '.join(differences)}",
        hint=f"known families: {', '.join(families.names())}",
    )


def _require_float(path: Path, structure: families.Structure, state: Mapping[str, Tensor]) -> None:
    for key in structure.renamed.values():
        if state[key].dim() and not state[key].is_floating_point():  # counters have no dimensions
            raise CheckpointError(
                f"{path}: '{key}' holds {str(state[key].dtype).removeprefix('torch.')} values, not floats",
                hint="give the float checkpoint",
            )


def _some(keys: tuple[str, ...]) -> str:
    more = len(keys) - _SHOWN_KEYS
    return ", ".join(keys[:_SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")
