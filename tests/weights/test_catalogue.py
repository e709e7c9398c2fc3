"""What the catalogue of public checkpoints may hold, and the page about it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from facex import cli, cli_options, weights
from facex.errors import UsageError
from facex.types import ContractOptions
from facex.weights import Checkpoint

DOCS = Path(__file__).resolve().parents[2] / "docs"


def entry(**changes: Any) -> dict[str, Any]:
    plain = {f.name: getattr(weights.catalogue()[0], f.name) for f in dataclasses.fields(Checkpoint)}
    return {key: value for key, value in {**plain, **changes}.items() if value is not ...}


def test_addresses_never_change_and_no_two_checkpoints_are_one() -> None:
    found = weights.catalogue()
    assert found
    for each in found:
        assert re.search(r"/[0-9a-f]{40}/|/releases/download/", each.url), each.url
        assert each.size_bytes < 10e6
        assert len(each.sha256) == 64
    for key in ("name", "url", "sha256"):
        assert len({getattr(each, key) for each in found}) == len(found)


def test_an_entry_is_what_it_was_written_as() -> None:
    assert weights.parse(entry()) == weights.catalogue()[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://example.org/a.pth"},
        {"url": "file:///etc/passwd"},
        {"url": "https://user@example.org/a.pth"},
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"sha256": ""},
        {"size_bytes": 0},
        {"size_bytes": -5},
        {"size_bytes": "1789735"},
        {"name": "../up"},
        {"name": ""},
        {"licence": ""},
        {"licence": "none stated"},
        {"licence_url": "http://example.org"},
        {"repository": ""},
        {"description": " "},
        {"sha256": ...},
        {"licence": ...},
        {"mirror": "https://example.org"},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_trusted_is_refused(changes: dict[str, Any]) -> None:
    (key,) = changes
    with pytest.raises(ValueError, match=rf"weights\.json: .*{key}"):
        weights.parse(entry(**changes))


@pytest.mark.parametrize("name", [each.name for each in weights.catalogue()])
def test_export_understands_the_contract_and_has_nothing_to_assume(name: str) -> None:
    options = weights.find(name).options
    context = cli.cli.commands["export"].make_context("export", ["model.pth", *options])
    stated = cli_options.contract_of(dict(context.params))
    unstated = {f.name for f in dataclasses.fields(ContractOptions) if getattr(stated, f.name) is None}
    # landmarks follow from the shapes; the activation speaks of the pyramid too
    assert unstated == {"landmarks", "pyramid_slope"}


@pytest.mark.shared
@pytest.mark.parametrize("name", [each.name for each in weights.catalogue()])
def test_the_real_files_are_the_ones_in_the_catalogue(shared_dir: Path, name: str) -> None:
    content = (shared_dir / "weights" / f"{name}.pth").read_bytes()
    found = weights.find(name)
    assert (found.sha256, found.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


@pytest.mark.shared
@pytest.mark.parametrize("name", [each.name for each in weights.catalogue()])
def test_the_real_files_are_detectors_with_that_contract(shared_dir: Path, name: str) -> None:
    from facex.reference import detector

    options = weights.find(name).options
    context = cli.cli.commands["export"].make_context("export", ["model.pth", *options])
    loaded = detector.load(shared_dir / "weights" / f"{name}.pth", cli_options.contract_of(dict(context.params)))
    assert loaded.assumed == ()


def test_an_unknown_name_is_told_the_known_ones(checkpoint: Checkpoint) -> None:
    assert weights.find("mnet") is checkpoint
    with pytest.raises(UsageError, match="no checkpoint is called 'resnet50' — there are mnet"):
        weights.find("resnet50")


# --- the page


def test_the_page_names_the_checkpoints_that_there_are() -> None:
    page = (DOCS / "weights.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w.-]+) \| .* \| `([0-9a-f]{12})…` \|$", page, flags=re.M)
    assert rows == [(each.name, each.licence, each.sha256[:12]) for each in weights.catalogue()]
