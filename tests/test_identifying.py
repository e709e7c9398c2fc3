"""`facex identify` and the probe within `facex export`: what a user sees, and what the manifest keeps of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import facex
from facex import identifying
from facex.errors import UsageError
from facex.manifest import Manifest, load
from facex.reference import probe
from facex.reference.probe import Disagreement, Identification
from facex.types import ContractOptions, Settled, SettledBy

SMALL = ("--photographs", 3)
WORDS = ("activation", "pyramid activation", "anchors", "variances", "channels", "mean", "scale")


def test_a_person_sees_each_field_and_how_it_came_about(
    run_facex: Any, seeded_checkpoint: Path, photo_dir: Path
) -> None:
    ran = run_facex("identify", seeded_checkpoint, "--images", photo_dir, *SMALL, "--channel-order", "bgr")
    assert ran.code == 0
    rows = {line.strip().split("  ")[0]: line for line in ran.out.splitlines() if line.startswith("  ")}
    assert set(WORDS) <= set(rows)
    assert "stated" in rows["channels"]
    assert all("undecided" in rows[word] for word in WORDS if word != "channels")
    assert "3 photographs" in ran.out
    assert "--anchors '16,32;64,128;256,512'" in ran.out.splitlines()[-1]


def test_json_has_the_words_of_the_manifest(run_facex: Any, seeded_checkpoint: Path) -> None:
    ran = run_facex("identify", seeded_checkpoint, "--json")
    found = json.loads(ran.out)
    assert ran.code == found["exit_code"] == 0
    assert set(found) == {f.name for f in dataclasses.fields(Identification)} | {"exit_code"}
    assert found["contract"]["channel_order"] == "bgr"
    assert set(found["undecided"]) == {s["field"] for s in found["settled"]}
    assert found["confidence"] == 0.0
    assert found["detections"] is None
    assert found["candidates"][0]["contract"] == found["contract"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.pth",), "no such file"),
        (("CHECKPOINT", "--images", "nowhere"), "--images nowhere: no such folder"),
        (("CHECKPOINT", "--images", "."), "holds no photograph"),
        (("CHECKPOINT", "--photographs", "0"), "--photographs"),
        (("CHECKPOINT", "--activation", "gelu"), "--activation gelu"),
        (("CHECKPOINT", "--landmarks", "9"), "--landmarks 9"),
        (("CHECKPOINT", "--anchors", "16;32"), "--anchors"),
    ],
)
def test_bad_input_is_one_line(run_facex: Any, seeded_checkpoint: Path, arguments: Any, words: str) -> None:
    ran = run_facex("identify", *(seeded_checkpoint if a == "CHECKPOINT" else a for a in arguments))
    assert ran.code == 2
    assert words in ran.error
    assert ran.out == ""


def test_python_has_the_same(seeded_checkpoint: Path, photo_dir: Path) -> None:
    found = facex.identify(seeded_checkpoint, images=photo_dir, photographs=2, activation="relu")
    assert found.photographs == 2
    assert found.contract.activation_slope == 0.0
    with pytest.raises(UsageError, match="unknown option colour"):
        facex.identify(seeded_checkpoint, colour="rgb")


# --- within an export


def export(checkpoint: Path, out: Path, **options: Any) -> Manifest:
    return facex.export(checkpoint, targets=["onnx"], sizes=["160x160"], out=out, **options)


def test_an_export_records_what_the_probe_left_open(
    quick_pivot: None, run_facex: Any, seeded_checkpoint: Path, photo_dir: Path, tmp_path: Path
) -> None:
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--images", photo_dir, "--out", "out")
    ran = run_facex(*line, "--mean", "104,117,123")
    assert ran.code == 0
    assert "undecided: activation" in " ".join(ran.out.split())
    assert "contradict" not in ran.err
    source = load(tmp_path / "out" / "manifest.json").source
    how = {s.field: s.how for s in source.settled}
    assert how.pop("mean") is SettledBy.STATED
    assert set(how.values()) == {SettledBy.ASSUMED}
    assert set(source.assumed) == set(how)
    assert all(s.evidence for s in source.settled if s.field in how)


def test_without_photographs_nothing_is_probed(
    quick_pivot: None, seeded_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "identify", lambda *_, **__: pytest.fail("probed"))
    source = export(seeded_checkpoint, tmp_path / "out").source
    assert all(s.confidence is None and not s.evidence for s in source.settled)


def found(
    checkpoint: Path, make: Callable[..., Identification] = probe.identify, **changes: Any
) -> Callable[..., Identification]:
    """A probe that has found these fields, whatever it was given."""

    def identify(path: Path, stated: ContractOptions, photographs: Any = (), **others: Any) -> Identification:
        real = make(path, stated)
        contract = dataclasses.replace(real.contract, **changes)
        settled = tuple(
            Settled(field=s.field, how=SettledBy.PROBED, confidence=0.9, evidence="seen")
            if s.field in changes and s.how is SettledBy.ASSUMED else s
            for s in real.settled
        )  # fmt: skip
        against = tuple(
            Disagreement(field=n, stated=getattr(stated, n), probed=v, confidence=0.9, evidence="seen")
            for n, v in changes.items() if getattr(stated, n) is not None and getattr(stated, n) != v
        )  # fmt: skip
        kept = dataclasses.replace(contract, **{d.field: d.stated for d in against})
        best = dataclasses.replace(real.candidates[0], contract=contract)
        undecided = tuple(s.field for s in settled if s.how is SettledBy.ASSUMED)
        return dataclasses.replace(
            real, contract=kept, settled=settled, undecided=undecided, disagreements=against, candidates=(best,)
        )

    return identify


def test_an_export_takes_what_the_probe_decides(
    seeded_checkpoint: Path, photo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "identify", found(seeded_checkpoint, activation_slope=0.0, variances=(0.2, 0.2)))
    exported = export(seeded_checkpoint, tmp_path / "out", images=photo_dir)
    assert exported.source.contract.activation_slope == 0.0
    assert exported.source.contract.variances == (0.2, 0.2)
    assert not {"activation_slope", "variances"} & set(exported.source.assumed)
    assert {s.field for s in exported.source.settled if s.how is SettledBy.PROBED} == {"activation_slope", "variances"}


def test_a_contradiction_is_loud_and_changes_nothing(
    quick_pivot: None, run_facex: Any, seeded_checkpoint: Path, photo_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(probe, "identify", found(seeded_checkpoint, variances=(0.2, 0.2)))
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--images", photo_dir, "--out", "out")
    ran = run_facex(*line, "--variances", "0.1,0.2")
    assert ran.code == 0
    assert "warning: --variances 0.1,0.2 was stated, but the checkpoint says 0.2,0.2" in ran.err
    assert load(tmp_path / "out" / "manifest.json").source.contract.variances == (0.1, 0.2)


def test_the_bundled_detector_needs_no_probe(tmp_path: Path, photo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facex import demo, pipeline
    from facex.recipe import Recipe

    shutil.copy(demo.CHECKPOINT, tmp_path)
    monkeypatch.setattr(identifying, "probed", lambda *_, **__: pytest.fail("probed"))
    recipe = Recipe(checkpoint=tmp_path / demo.CHECKPOINT_NAME, images=photo_dir, targets=("onnx",), out=tmp_path / "o")
    planned = pipeline.plan(recipe)
    evidence, _, seen = pipeline._read(planned, tmp_path / demo.CHECKPOINT_NAME)
    assert seen
    assert pipeline._probed(planned, evidence, seen, identifying.Clock()) is evidence
