from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facex.manifest import Manifest
from facex.report.junit import to_xml
from facex.types import Finding, Verdict

TESTS = {"tests": None, "failures": Verdict.FAIL, "skipped": Verdict.SKIPPED}


def _count(findings: list[Finding], verdict: Verdict | None) -> str:
    return str(sum(verdict is None or f.verdict is verdict for f in findings))


def _finding(artifact: str = "a.onnx", name: str = "matched_f1", reason: str = "lost", **changes: object) -> Finding:
    values = {"unit": "ratio", "actual": 0.5, "limit": 0.9, "verdict": Verdict.FAIL, **changes}
    return Finding(artifact=artifact, name=name, reason=reason, **values)


def test_suites_are_artifacts_and_their_counts_are_right(rich: Manifest) -> None:
    root = ElementTree.fromstring(to_xml(rich))
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == [a.name for a in rich.artifacts]
    for element, findings in [(root, list(rich.findings))] + [
        (suite, [f for f in rich.findings if f.artifact == suite.get("name")]) for suite in root
    ]:
        for attribute, verdict in TESTS.items():
            assert element.get(attribute) == _count(findings, verdict)
        assert element.get("errors") == "0"
        assert element.get("time") == "0"
        assert len(list(element.iter("testcase"))) == len(findings)


def test_cases_carry_name_verdict_and_reason(rich: Manifest) -> None:
    cases = list(ElementTree.fromstring(to_xml(rich)).iter("testcase"))
    by_artifact = sorted(rich.findings, key=lambda f: [a.name for a in rich.artifacts].index(f.artifact))
    for case, finding in zip(cases, by_artifact, strict=True):
        assert (case.get("classname"), case.get("name"), case.get("time")) == (
            finding.artifact,
            finding.name,
            "0",
        )
        expected = {Verdict.FAIL: "failure", Verdict.SKIPPED: "skipped", Verdict.PASS: "system-out"}[finding.verdict]
        assert [child.tag for child in case] == [expected]
        if finding.verdict is not Verdict.PASS:
            assert case[0].get("message") == finding.reason


def test_a_failure_shows_value_limit_and_kind(rich: Manifest) -> None:
    failures = list(ElementTree.fromstring(to_xml(rich)).iter("failure"))
    assert {failure.get("type") for failure in failures} == {"parity", "budget"}
    size = next(failure for failure in failures if failure.get("type") == "budget")
    assert size.text == "size: 1.734 MB, limit <= 1.5 MB\n1.734 is above 1.5"


def test_the_same_manifest_gives_the_same_text(rich: Manifest) -> None:
    assert to_xml(rich) == to_xml(dataclasses.replace(rich))
    assert to_xml(rich).startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites')


def test_two_findings_of_a_name_stay_two_cases(rich: Manifest) -> None:
    findings = (_finding(name="latency", verdict=Verdict.PASS, reason=""), _finding(name="latency"))
    cases = ElementTree.fromstring(to_xml(dataclasses.replace(rich, findings=findings))).iter("testcase")
    assert [case.get("name") for case in cases] == ["latency", "latency #2"]


def test_a_time_says_how_it_came_about(rich: Manifest) -> None:
    name = rich.artifacts[2].name
    phone = _finding(
        name, "latency", "", device="Example Phone", verdict=Verdict.PASS, actual=78.0, limit=90.0, unit="ms"
    )
    here = _finding(name, "latency", "", verdict=Verdict.PASS, actual=33.5, limit=90.0, unit="ms")
    size = _finding(name, "size", "", verdict=Verdict.PASS, actual=0.5, limit=0.9, unit="MB")
    root = ElementTree.fromstring(to_xml(dataclasses.replace(rich, findings=(here, phone, size))))
    assert [case.findtext("system-out") for case in root.iter("testcase")] == [
        "33.5 ms, limit <= 90 ms; measured on host: Example CPU, linux x86_64, 2 threads",
        "78 ms, limit <= 90 ms; estimate for Example Phone, 4 threads",
        "0.5 MB, limit <= 0.9 MB",
    ]


def test_a_budget_of_a_device_has_a_case_of_its_own_with_the_numbers(rich: Manifest) -> None:
    reason = "upper end of the estimate, 15 ms is above the limit of 12 ms"
    phone = _finding(
        name="latency", unit="ms", actual=15.0, limit=12.0, reason=reason, device="pixel-4", verdict=Verdict.FAIL
    )
    memory = _finding(name="memory", unit="MB", actual=9.0, limit=8.0, reason="9 MB is above the limit of 8 MB")
    here = _finding(name="latency", verdict=Verdict.PASS, reason="")
    root = ElementTree.fromstring(to_xml(dataclasses.replace(rich, findings=(here, phone, memory))))
    assert [case.get("name") for case in root.iter("testcase")] == ["latency", "latency on pixel-4", "memory"]
    failures = list(root.iter("failure"))
    assert [f.get("type") for f in failures] == ["budget", "budget"]
    assert failures[0].text == f"latency on pixel-4: 15 ms, limit <= 12 ms\n{reason}"


def test_findings_of_two_runtimes_have_names_of_their_own(several: Manifest) -> None:
    (suite,) = ElementTree.fromstring(to_xml(several))
    names = [case.get("name") for case in suite]
    assert len(set(names)) == len(names) == len(several.findings)
    assert not any("#" in name for name in names)
    assert {"matched_f1 in executor", "matched_f1 in native-cpu", "matched_f1 in native-ane", "size"} <= set(names)
    assert "vs_executor.landmark_nme_mean in native-cpu: 0.0042" in "".join(suite.itertext())


def test_a_finding_about_an_unlisted_artifact_is_not_lost(rich: Manifest) -> None:
    root = ElementTree.fromstring(to_xml(dataclasses.replace(rich, artifacts=(), findings=(_finding("x.onnx"),))))
    assert [suite.get("name") for suite in root] == ["x.onnx"]
    assert root.get("failures") == "1"


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.SKIPPED])
@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("<a> & \"b\" 'c' ]]>", "<a> & \"b\" 'c' ]]>"),
        ("bell\x07 escape\x1b null\x00", r"bell\x07 escape\x1b null\x00"),
        ("surrogate \udcff", r"surrogate \udcff"),
        ("not characters \ufffe\uffff", r"not characters \ufffe\uffff"),
        ("two\nlines and a\ttab", "two\nlines and a\ttab"),
        ("日本 é 🙂", "日本 é 🙂"),
    ],
)
def test_any_text_survives(rich: Manifest, text: str, read: str, verdict: Verdict) -> None:
    actual = None if verdict is Verdict.SKIPPED else 0.5
    finding = _finding(artifact=text, name=text, reason=text, verdict=verdict, actual=actual)
    xml = to_xml(dataclasses.replace(rich, artifacts=(), findings=(finding,)))
    case = next(ElementTree.fromstring(xml.encode("utf-8")).iter("testcase"))
    assert (case.get("classname"), case.get("name"), case[0].get("message")) == (read, read, read)


@given(text=st.text())
def test_the_xml_is_always_well_formed(text: str) -> None:
    from facex.report.junit import _add_case

    suite = ElementTree.Element("testsuite")
    _add_case(suite, text, _finding(artifact=text, name=text, reason=text), text)
    parsed = ElementTree.fromstring(ElementTree.tostring(suite, encoding="unicode").encode("utf-8"))
    assert len(list(parsed.iter("failure"))) == 1
