"""Size and latency of artifacts: how long each device takes, and whether that fits the budget.

A device is a module of this package; the file name is the registry, and the word a user types, who may add an argument
after a colon (`adb:SERIAL`). A device measures or estimates the artifacts that it is handed and returns one
`facex.types.Latency` for each, which says by its `kind` whether the number is measured, emulated or estimated, and
whose `device` begins with that word. `host` times opened sessions, and has OPTIONS; every other device takes files, and
its module has

    TARGETS                                            targets whose files it can time
    OPTIONS                                            fields of `DeviceOptions` that it knows beside the common ones
    measure(files, argument, options, progress)        -> (latencies, DeviceReport)
    replay(files, pictures, argument, options, progress)   optional: -> file -> for every picture, outputs by name

A phone of the table of `estimate` is a word too: `pixel-4` is `estimate:pixel-4`.
`budget` is not a device: it turns sizes and latencies into findings. Nor is `emulator`,
which computes as a phone does but takes its own time.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

from facex.errors import UsageError
from facex.types import HOST, DeviceOptions

ESTIMATE = "estimate"
_NOT_DEVICES = ("budget", "emulator", "emulator_setup")
_COMMON_OPTIONS = ("threads", "warmup", "runs", "runtime")


def known(word: str) -> bool:
    """Whether a budget may be set for a device; a word may have an argument after a colon."""
    return word.partition(":")[0] in (*names(), *phones())


@functools.cache
def phones() -> tuple[str, ...]:
    """Words of the phones that `estimate` has figures of, in the order of its table."""
    # read here: `facex --help` names them, and everything else about them takes time to import
    table = json.loads(Path(__file__).with_name("phones.json").read_text(encoding="utf-8"))
    return tuple(device["name"] for device in table["devices"])


def budgeted(word: str) -> str:
    """What a device is called in budgets and at the beginning of `Latency.device`: its word without the argument."""
    name, _, argument = word.partition(":")
    return argument if name == ESTIMATE else name


def names() -> list[str]:
    """Names of the devices, alphabetical; imports none of them."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in _NOT_DEVICES)


def find(word: str) -> tuple[Any, str]:
    """The module of a device and the argument for it, empty where there is none.

    Args:
        word: `NAME` or `NAME:ARGUMENT`, as after `--device`.

    Raises:
        UsageError: no such device, an empty argument, or one for the host, which takes none.
    """
    name, colon, argument = word.partition(":")
    if name not in names():
        if word not in phones():
            raise UsageError(f"--device {word}: unknown", hint=f"choose from {', '.join([*names(), *phones()])}")
        name, colon, argument = ESTIMATE, ":", word
    if colon and (not argument or name == HOST):
        raise UsageError(f"--device {word}: {'takes no argument' if argument else 'names nothing after the colon'}")
    return importlib.import_module(f"{__name__}.{name}"), argument


def refuse_unknown(word: str, device: Any, options: DeviceOptions) -> None:
    """Refuse options that a device does not know and that are not left at their defaults.

    Raises:
        UsageError: naming the first of them.
    """
    known = {*_COMMON_OPTIONS, *getattr(device, "OPTIONS", ())}
    if options.also_threads and "also_threads" not in known:
        raise UsageError(f"--threads: --device {word} takes one number of threads", hint="run it once for each")
    for field in dataclasses.fields(DeviceOptions):
        if field.name not in known and getattr(options, field.name) != field.default:
            raise UsageError(f"--{field.name.replace('_', '-')}: --device {word} does not know this option")
