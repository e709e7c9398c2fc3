"""Options from `facex.toml`, or from `[tool.facex]` in `pyproject.toml`: found, read, checked against the commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from facex import device_bench
from facex.errors import UsageError
from facex.recipe import BUDGET_LIMITS, Budget
from facex.types import HOST, BandEnd

FILE_NAME = "facex.toml"
PROJECT_NAME = "pyproject.toml"
BUDGET = "budget"
"""The table of budgets, a table a device; not one of options."""

PATH_OPTIONS = frozenset({"checkpoint", "reference", "calib", "images", "ground_truth", "out", "benchmark_model"})


def find(start: Path) -> Path | None:
    """The configuration of a folder: `facex.toml`, else a `pyproject.toml` that has `[tool.facex]`.

    Raises:
        UsageError: the `pyproject.toml` cannot be read.
    """
    own = start / FILE_NAME
    if own.is_file():
        return own
    project = start / PROJECT_NAME
    return project if project.is_file() and _section(project, _read(project)) is not None else None


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error


def _section(path: Path, data: dict[str, Any]) -> dict[str, Any] | None:
    """What a file says to facex; None when it says nothing."""
    if path.name != PROJECT_NAME:
        return data
    tool = data.get("tool", {})
    found = tool.get("facex") if isinstance(tool, dict) else None
    if found is None or isinstance(found, dict):
        return found
    raise UsageError(f"{path}: 'tool.facex' must be a table, not {found!r}")


def defaults(path: Path, group: click.Group) -> dict[str, dict[str, Any]]:
    """Defaults for every command, from the file's keys; those of a group's commands are in the group's own dict.

    A key is the name of an option (`max-size-mb` or `max_size_mb`), or `checkpoint`, and holds for every command that
    has it; a table named after a command, or after a group of commands, holds for that alone and goes before. Paths are
    relative to the file.

    Raises:
        UsageError: a key that no command has, or a value that its option refuses; names the file and the key.
    """
    table = _section(path, _read(path))
    if table is None:
        raise UsageError(f"{path}: has no [tool.facex]")
    found = _empty(group)
    _fill(found, path, group, {key: value for key, value in table.items() if key != BUDGET}, "")
    return found


def budgets(path: Path) -> dict[str, Budget]:
    """The budget of every device that the file has one for, by the device's word.

    `[budget.host]`, `[budget."pixel-4"]` with `max_latency_ms`, `max_size_mb`, `max_load_ms`, `max_memory_mb` and
    `compare`: `upper` (the default), `median` or `lower`, the figure of an estimate that is held to the limit.

    Raises:
        UsageError: an unknown device or key, a value that is none, or a limit that is given as an option as well;
            names the file, the table and the key.
    """
    section = _section(path, _read(path)) or {}
    tables = section.get(BUDGET, {})
    if not isinstance(tables, dict):
        raise UsageError(f"{path}: '{BUDGET}' must be a table, not {tables!r}", hint=f"for example [{BUDGET}.{HOST}]")
    found = {device: _budget(path, device, table) for device, table in tables.items()}
    if HOST in found:
        _refuse_twice(path, section, found[HOST])
    return found


def _budget(path: Path, device: str, table: Any) -> Budget:
    shown = f'{BUDGET}."{device}"'
    if not device_bench.known(device):
        words = ", ".join(sorted({*device_bench.names(), *device_bench.phones()}))
        raise UsageError(f"{path}: '{shown}': no such device", hint=f"choose from {words}")
    if not isinstance(table, dict):
        raise UsageError(f"{path}: '{shown}' must be a table, not {table!r}")
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name == "compare":
            values[name] = _band_end(path, f"{shown}.{key}", value)
        elif name not in BUDGET_LIMITS:
            hint = f"valid keys: {', '.join((*BUDGET_LIMITS, 'compare'))}"
            raise UsageError(f"{path}: '{shown}.{key}' is not a limit", hint=hint)
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"{path}: '{shown}.{key}' must be a number, not {value!r}")
        else:
            values[name] = float(value)
    try:
        return Budget(device=device, **values)
    except UsageError as error:
        raise UsageError(f"{path}: '{shown}': {error.what}", hint=error.hint) from error


def _band_end(path: Path, shown: str, value: Any) -> BandEnd:
    try:
        return BandEnd(value)
    except ValueError as error:
        raise UsageError(f"{path}: '{shown}': {value!r} is none", hint=f"choose from {', '.join(BandEnd)}") from error


def _refuse_twice(path: Path, section: Mapping[str, Any], budget: Budget) -> None:
    """Options of the file are those of the host's budget too; one of them can hold."""
    tables = [
        ("", section),
        *((f"{name}.", t) for name, t in section.items() if isinstance(t, dict) and name != BUDGET),
    ]
    for prefix, table in tables:
        for key in table:
            name = key.replace("-", "_")
            if name in BUDGET_LIMITS and getattr(budget, name) is not None:
                raise UsageError(
                    f"{path}: '{prefix}{key}' and '{BUDGET}.\"{HOST}\".{name}' are the same limit",
                    hint="keep one of them",
                )


def _empty(group: click.Group) -> dict[str, dict[str, Any]]:
    return {name: _empty(c) if isinstance(c, click.Group) else {} for name, c in group.commands.items()}


def _commands(group: click.Group, found: dict[str, dict[str, Any]]) -> Iterator[tuple[click.Command, dict[str, Any]]]:
    """Every command at or below a group, with the dict of its defaults."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, found[name])
        else:
            yield command, found[name]


def _fill(
    found: dict[str, dict[str, Any]], path: Path, group: click.Group, table: Mapping[str, Any], prefix: str
) -> None:
    """Set what a group's table says: of all its commands first, then of each."""
    own = {key: value for key, value in table.items() if key in group.commands and isinstance(value, dict)}
    for key, value in table.items():
        if key not in own:
            _set(list(_commands(group, found)), path, key, value, shown=f"{prefix}{key}")
    for name, options in own.items():
        command = group.commands[name]
        if isinstance(command, click.Group):
            _fill(found[name], path, command, options, f"{prefix}{name}.")
            continue
        for key, value in options.items():
            _set([(command, found[name])], path, key, value, shown=f"{prefix}{name}.{key}")


def _keys(command: click.Command) -> dict[str, click.Parameter]:
    """Key -> parameter of a command, words split by underscores."""
    keys: dict[str, click.Parameter] = {}
    for param in command.params:
        if isinstance(param, click.Option):
            keys |= {opt[2:].replace("-", "_"): param for opt in param.opts if opt.startswith("--")}
        elif param.name in PATH_OPTIONS:
            keys[param.name] = param
    return keys


def _set(commands: list[tuple[click.Command, dict[str, Any]]], path: Path, key: str, value: Any, *, shown: str) -> None:
    name = key.replace("-", "_")
    keys = [(_keys(command), found) for command, found in commands]
    holders = [(known[name], found) for known, found in keys if name in known]
    if not holders:
        valid = sorted({key.replace("_", "-") for known, _ in keys for key in known})
        raise UsageError(f"{path}: '{shown}' is not an option", hint=f"valid keys: {', '.join(valid)}")
    for param, found in holders:
        assert param.name is not None
        found[param.name] = _converted(path, shown, param, value)


def _converted(path: Path, shown: str, param: click.Parameter, value: Any) -> Any:
    """The value as click would read it from the command line, checked now so that the message can name the file."""
    many = param.multiple if isinstance(param, click.Option) else False
    values = value if isinstance(value, list) else [value]
    if len(values) != 1 and not many:
        raise UsageError(f"{path}: '{shown}' takes one value, not {len(values)}")
    flag = isinstance(param, click.Option) and param.is_flag
    for item in values:
        if flag != isinstance(item, bool) or not isinstance(item, (str, int, float)):
            wanted = "true or false" if flag else "text or a number"
            raise UsageError(f"{path}: '{shown}' must be {wanted}, not {item!r}")
    if param.name in PATH_OPTIONS:
        values = [str(path.parent / str(item)) for item in values]
    texts = [item if flag else str(item) for item in values]
    try:
        for text in texts:
            param.type.convert(text, param, None)
    except click.BadParameter as error:
        raise UsageError(f"{path}: '{shown}': {error.message}") from error
    except UsageError as error:
        raise UsageError(f"{path}: '{shown}': {error.what}", hint=error.hint) from error
    return texts if many else texts[0]
