"""Options from `facex.toml`, or from `[tool.facex]` in `pyproject.toml`, checked against the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from facex.errors import UsageError

FILE_NAME = "facex.toml"
PATH_OPTIONS = frozenset({"checkpoint", "reference", "calib", "images", "ground_truth", "out"})


def find(start: Path) -> Path | None:
    """The configuration of a folder: `facex.toml`, else a `pyproject.toml` that has `[tool.facex]`."""
    own = start / FILE_NAME
    if own.is_file():
        return own
    project = start / "pyproject.toml"
    if project.is_file() and "facex" in _table(project).get("tool", {}):
        return project
    return None


def _table(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error


def defaults(path: Path, group: click.Group) -> dict[str, dict[str, Any]]:
    """Defaults for every command, from the file's keys.

    A key is the name of an option (`max-size-mb` or `max_size_mb`) and holds for every command that has it; a table
    named after a command holds for that command alone. Paths are relative to the file.

    Raises:
        UsageError: a key that no command has, or a value that its option refuses; names the file and the key.
    """
    table = _table(path)
    table = table.get("tool", {}).get("facex", {}) if path.name == "pyproject.toml" else table
    found: dict[str, dict[str, Any]] = {name: {} for name in group.commands}
    for key, value in table.items():
        if key in group.commands and isinstance(value, dict):
            for inner, inner_value in value.items():
                _set(found, path, group, [key], inner, inner_value)
        else:
            _set(found, path, group, list(group.commands), key, value)
    return found


def _set(
    found: dict[str, dict[str, Any]], path: Path, group: click.Group, commands: list[str], key: str, value: Any
) -> None:
    name = key.replace("-", "_")
    known = set()
    used = False
    for command in commands:
        every = group.commands[command].params
        params = {p.name: p for p in every if isinstance(p, click.Option) or p.name in PATH_OPTIONS}
        known |= set(params)
        if name in params:
            found[command][name] = _converted(path, key, params[name], value)
            used = True
    if not used:
        valid = ", ".join(sorted(k.replace("_", "-") for k in known if k))
        raise UsageError(f"{path}: '{key}' is not an option", hint=f"valid keys: {valid}")


def _converted(path: Path, key: str, param: click.Parameter, value: Any) -> Any:
    """The value as click would read it from the command line, checked now so that the message can name the file."""
    many = param.multiple if isinstance(param, click.Option) else False
    values = value if isinstance(value, list) else [value]
    if len(values) != 1 and not many:
        raise UsageError(f"{path}: '{key}' takes one value, not {len(values)}")
    flag = isinstance(param, click.Option) and param.is_flag
    for item in values:
        if flag != isinstance(item, bool) or isinstance(item, (dict, list)):
            wanted = "true or false" if flag else "text or a number"
            raise UsageError(f"{path}: '{key}' must be {wanted}, not {item!r}")
    if param.name in PATH_OPTIONS:
        values = [str(path.parent / str(item)) for item in values]
    texts = [item if flag else str(item) for item in values]
    try:
        for text in texts:
            param.type.convert(text, param, None)
    except click.BadParameter as error:
        raise UsageError(f"{path}: '{key}': {error.message}") from error
    return texts if many else texts[0]
