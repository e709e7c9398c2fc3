"""The findings as JUnit XML, in the dialect that GitLab, Jenkins and the GitHub actions have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from facex.manifest import BUDGET_FINDINGS, TIMED_FINDINGS, Manifest
from facex.report.wording import comparison, condition, printable
from facex.types import HOST, Finding, Verdict, run_name


def to_xml(manifest: Manifest) -> str:
    """One test suite an artifact, one test case a finding; the declared encoding is UTF-8.

    There are no times and no time stamps: the same manifest gives the same text.
    """
    root = ElementTree.Element("testsuites", {"name": "facex", **_counts(manifest.findings)})
    # A dictionary for its order: the artifacts, then any that only findings speak of.
    names = dict.fromkeys([a.name for a in manifest.artifacts] + [f.artifact for f in manifest.findings])
    for name in names:
        findings = [f for f in manifest.findings if f.artifact == name]
        suite = ElementTree.SubElement(root, "testsuite", {"name": _xml_text(name), **_counts(findings)})
        for title, finding in zip(_titles(findings), findings, strict=True):
            _add_case(suite, title, finding, _origin(manifest, finding))
    ElementTree.indent(root)
    # ElementTree's own declaration names the locale's encoding when it returns text
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _counts(findings: Iterable[Finding]) -> dict[str, str]:
    verdicts = [f.verdict for f in findings]
    return {
        "tests": str(len(verdicts)),
        "failures": str(verdicts.count(Verdict.FAIL)),
        "errors": "0",
        "skipped": str(verdicts.count(Verdict.SKIPPED)),
        "time": "0",
    }


def _titles(findings: Sequence[Finding]) -> list[str]:
    """Names of the test cases: the metric with the runtime, numbered from the second of a kind on.

    Latencies under two numbers of threads are two findings of a name, and readers keep one case a name.
    """
    seen: Counter[str] = Counter()
    titles = []
    for finding in findings:
        title = run_name(finding.title, finding.runtime)
        seen[title] += 1
        titles.append(f"{title} #{seen[title]}" if seen[title] > 1 else title)
    return titles


def _origin(manifest: Manifest, finding: Finding) -> str:
    """How a figure of time or memory came about; empty for others."""
    about = (finding.artifact, finding.runtime)
    found = [e for e in manifest.latency if (e.artifact, e.runtime) == about and e.is_on(finding.device or HOST)]
    return condition(found[0]) if found and finding.name in TIMED_FINDINGS else ""


def _add_case(suite: ElementTree.Element, title: str, finding: Finding, origin: str) -> None:
    names = {"classname": _xml_text(finding.artifact), "name": _xml_text(title), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", names)
    message = _xml_text(finding.reason)
    if finding.verdict is Verdict.FAIL:
        kind = "budget" if finding.name in BUDGET_FINDINGS else "parity"
        failure = ElementTree.SubElement(case, "failure", {"message": message, "type": kind})
        failure.text = f"{_xml_text(run_name(finding.title, finding.runtime))}: {comparison(finding)}\n{message}"
    elif finding.verdict is Verdict.SKIPPED:
        ElementTree.SubElement(case, "skipped", {"message": message})
    else:
        told = f"{comparison(finding)}; {origin}" if origin else comparison(finding)
        ElementTree.SubElement(case, "system-out").text = _xml_text(told)


def _xml_text(text: str) -> str:
    """The text with what is no character of XML 1.0 (section 2.2) written as escapes."""
    return printable(text, keep="\t\n")
