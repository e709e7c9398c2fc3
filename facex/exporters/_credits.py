"""Author, licence and version as entries of an ONNX or TFLite file's metadata."""

from __future__ import annotations

from collections.abc import Mapping

from facex.types import Credits

KEYS = {"author": "model_author", "license": "model_license", "version": "model_version"}
"""Field -> key. The first two are those of the ONNX specification (docs/IR.md, Optional Metadata).

A version is a number there, so text has a key of facex's own.
"""


def entries(credits: Credits) -> dict[str, str]:
    """What was stated, by key."""
    return {key: value for field, key in KEYS.items() if (value := getattr(credits, field))}


def read(metadata: Mapping[str, str]) -> Credits:
    """The reverse of `entries`, on metadata that may hold anything else too."""
    return Credits(**{field: metadata.get(key, "") for field, key in KEYS.items()})
