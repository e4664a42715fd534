"""Results of checks as JUnit XML, which CI servers show: a suite for each product, a case for each check."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from meshql.build.quality import CheckResult

__all__ = ["junit_xml"]

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write."""

OUTCOMES = {"failed": "failure", "error": "error", "skipped": "skipped"}
"""Elements inside a case by the state of its check; a warning passes, and says so in its output."""


def junit_xml(results: Iterable[CheckResult], at: datetime | None = None) -> str:
    """Return a document with the results, which stand together by product; `at` is when they were made.

    Times are in seconds. CI servers know no warnings: such a check passes, with its figures as its output.
    """
    moment = (at or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    suites = [(name, list(found)) for name, found in groupby(results, lambda r: r.product)]
    everything = [result for _, found in suites for result in found]
    root = Element("testsuites", {"name": "meshql check", **_totals(everything)})
    for name, found in suites:
        _add_suite(root, name, found, moment)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add_suite(root: Element, name: str, results: Sequence[CheckResult], moment: str) -> None:
    suite = SubElement(
        root,
        "testsuite",
        {
            "name": _clean(name),
            "timestamp": moment,
            "hostname": _clean(socket.gethostname() or "localhost"),
            **_totals(results),
            "skipped": str(sum(r.state == "skipped" for r in results)),
        },
    )
    for result in results:
        case = SubElement(
            suite, "testcase", name=_clean(result.check), classname=_clean(name), time=f"{result.seconds:.3f}"
        )
        if result.state in OUTCOMES:
            _add_outcome(case, result)
        elif result.state == "warning":
            SubElement(case, "system-out").text = _clean(f"warning: {result.words}")


def _add_outcome(case: Element, result: CheckResult) -> None:
    outcome = SubElement(case, OUTCOMES[result.state], message=_clean(result.words))
    if result.state != "skipped":
        outcome.set("type", result.severity if result.state == "failed" else "error")
        outcome.text = _clean("\n".join([result.words, *map(str, result.examples)]))


def _totals(results: Sequence[CheckResult]) -> dict[str, str]:
    return {
        "tests": str(len(results)),
        "failures": str(sum(r.state == "failed" for r in results)),
        "errors": str(sum(r.state == "error" for r in results)),
        "time": f"{sum(r.seconds for r in results):.3f}",
    }


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
