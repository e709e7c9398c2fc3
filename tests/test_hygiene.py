"""What no file of the project may hold."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

# put together here, so that this file does not hold them either
FOLDERS = ["/" + name for name in ("work", "root", "home", "Users", "tmp/venv", "tmp/pytest")]
MACHINE_PATH = re.compile(rf"(?<![\w.\-}}/])(?:{'|'.join(FOLDERS)})/[\w.]")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")


def _files(root: Path) -> list[Path]:
    line = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [root / name for name in done.stdout.split("\0") if name and (root / name).is_file()]


def _hits(root: Path, pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in _files(root):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # no text
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()}")
    return found


def test_no_file_names_a_path_of_some_machine(pytestconfig: pytest.Config) -> None:
    assert _hits(pytestconfig.rootpath, MACHINE_PATH) == []


def test_no_file_is_unfinished(pytestconfig: pytest.Config) -> None:
    assert _hits(pytestconfig.rootpath, UNFINISHED) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_path_of_some_machine_would_be_seen(folder: str) -> None:
    assert MACHINE_PATH.search(f"see {folder}/project/file.py")
    assert MACHINE_PATH.search(f'"{folder}/x"')
    assert not MACHINE_PATH.search("build/facex-work/x, https://example.com/home/page, ../shared")


def test_the_files_of_the_project_are_looked_at(pytestconfig: pytest.Config) -> None:
    names = {path.name for path in _files(pytestconfig.rootpath)}
    assert {"pyproject.toml", "README.md", "cli.py", "test_hygiene.py"} <= names
