"""The officer's report: all that was let out, and nothing that the verified log does not say."""

from __future__ import annotations

import csv
import io
import json
import stat
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from keystore.embedded import Keystore
from keystore.errors import AuditError, GrantError, StorageError
from keystore.reporting.controller import UNSAID, Controller
from keystore.reporting.report import OfficerReport, officer_report
from keystore.reporting.writing import as_csv, as_html, guarded, write_report
from tests.keystore.postgres import ON_BOTH, copy_keystore

FORMULA = '=HYPERLINK("http://x", "<script>alert(1)</script>")'
TURNED = "photo\u202egpj.exe"
SUBJECT = "Jane Doe"


@pytest.fixture(scope="module")
def used(template: Path, tmp_path_factory: pytest.TempPathFactory, make) -> Path:
    """A keystore in which one release was made, one refused, one request lapsed and one grant, and a subject was erased."""
    path = copy_keystore(template, tmp_path_factory.mktemp("used") / "ks")
    with Keystore.open(path) as keystore:
        make.deposit(keystore, [make.record("s.png", subject=SUBJECT), make.record(TURNED)], "part-9")
        keystore.ingest(make.RUN)
        request = make.request(keystore, "a.png", TURNED, purpose=FORMULA)
        for name in ("Bob", "Carol"):
            make.approve(keystore, request.request_id, name)
        make.take(keystore, request.request_id)
        with pytest.raises(GrantError):
            make.take(keystore, request.request_id)
        make.request(keystore, "b.png", expires=timedelta(minutes=5))
        make.approved(keystore, "c.png")
        keystore.deny(make.request(keystore, "c.png").request_id, "Dora")
        assert keystore.erase("photos", "Dora", subject=SUBJECT) == 1
    return path


def report_of(path: Path, **more: object) -> OfficerReport:
    return officer_report(path, datetime.now(UTC) + timedelta(hours=30), **more)  # type: ignore[arg-type]


def test_it_says_who_got_what_when_why_and_by_whose_approvals(used: Path) -> None:
    report = report_of(used, words=True)
    (one,) = report.disclosures
    assert (one.released_to, one.approved_by, one.records) == ("alice", ["bob", "carol"], 2)
    assert (one.purpose, one.legal_basis, one.case) == (FORMULA, "court-order: 12/26", "C-17")
    assert one.images is not None and sorted(one.images) == ["photos/a.png", f"photos/{TURNED}"]
    with Keystore.open(used) as keystore:
        leaves = [json.loads(leaf) for leaf in keystore.audit_entries()]
    assert leaves[one.entry]["type"] == "release" and leaves[one.entry]["sealed_sha256"] == one.sealed_sha256
    assert [leaves[entry]["type"] for entry in one.approval_entries] == ["approve", "approve"]


def test_it_says_what_was_refused_what_lapsed_and_what_was_erased(used: Path) -> None:
    report = report_of(used, words=True)
    assert [(one.action, one.code, one.by) for one in report.refusals] == [("release", "used", "alice")]
    assert [(one.what, one.approvals) for one in report.overdue] == [
        ("lapsed without a decision", 0),
        ("approved, and lapsed unused", 2),
    ]
    assert officer_report(used, datetime.now(UTC)).overdue == []  # not before their time
    (erased,) = report.erasures
    assert (erased.dataset, erased.records, erased.keys, erased.by) == ("photos", 1, 1, "dora")
    (held,) = report.processing.datasets
    assert (held.dataset, held.records, held.runs) == ("photos", 4, 1)


def test_without_words_nobody_and_nothing_is_named(used: Path) -> None:
    report = report_of(used)
    written = report.model_dump_json() + as_html(report) + "".join(as_csv(report).values())
    for hidden in ("alice", "bob", "carol", "dora", "HYPERLINK", "court-order", "C-17", "a.png", SUBJECT):
        assert hidden not in written
    assert len(report.disclosures) == 1 and report.disclosures[0].approved_by[0] != report.disclosures[0].approved_by[1]


def test_intact_is_said_against_a_checkpoint_kept_elsewhere_only(used: Path) -> None:
    with Keystore.open(used) as keystore:
        note, vkey = keystore.checkpoint(), keystore.audit_vkey
    alone = report_of(used)
    assert not alone.intact and "not shown" in alone.verdict() and "the log is intact" not in as_html(alone)
    vouched = report_of(used, checkpoints=[note], vkey=vkey)
    assert vouched.intact and vouched.verdict() == "the log is intact" and "the log is intact" in as_html(vouched)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE requests SET purpose = 'harmless' WHERE state = 'released'",
        "UPDATE request_images SET image_id = 'z.png'",
        "UPDATE people SET name = 'mallory' WHERE name = 'bob'",
        "UPDATE erasures SET dataset = 'other'",
    ],
)
def test_nothing_is_reported_from_tables_that_are_not_as_the_log_says(
    used: Path, tmp_path: Path, statement: str
) -> None:
    path = copy_keystore(used, tmp_path / "ks")
    with Keystore.open(path) as keystore, keystore._database.write() as connection:
        for action in ("update", "delete"):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS erasures_no_{action}")
        assert connection.exec_driver_sql(statement).rowcount
    with pytest.raises(AuditError, match="nothing is reported"):
        report_of(path, words=True)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "style", "onclick")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_and_runs_nothing_that_a_requester_wrote(used: Path) -> None:
    page = _Page()
    page.feed(as_html(report_of(used, words=True)))
    assert "script" not in page.tags and page.loads == []
    assert FORMULA in page.text and "photo\\u202egpj.exe" in page.text and "\u202e" not in page.text


def test_no_cell_of_a_csv_file_is_a_formula_and_each_reads_back(used: Path) -> None:
    made = as_csv(report_of(used, words=True))
    (line,) = csv.DictReader(io.StringIO(made["disclosures.csv"], newline=""))
    assert line["purpose"] == f"'{FORMULA}"
    assert sorted(line["images"].split("; ")) == ["photos/a.png", f"photos/{TURNED}"]
    for text in made.values():
        for row in csv.reader(io.StringIO(text, newline="")):
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "\uff1d1"])
def test_whatever_a_spreadsheet_would_compute_is_text(cell: str) -> None:
    assert guarded(cell) == f"'{cell}"


def test_files_are_private_and_never_written_over_others(used: Path, tmp_path: Path) -> None:
    report = report_of(used)
    names = write_report(report, tmp_path / "report")
    files = {one.name: one for one in (tmp_path / "report").iterdir()}
    assert sorted(files) == names and {stat.S_IMODE(one.stat().st_mode) for one in files.values()} == {0o600}
    assert OfficerReport.model_validate_json(files["report.json"].read_bytes()) == report
    with pytest.raises(StorageError, match="exists"):
        write_report(report, tmp_path / "report")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can not be written"):
        write_report(report, tmp_path / "file" / "report")


def test_what_the_controller_says_stands_in_the_record_of_processing(used: Path) -> None:
    page = _Page()
    page.feed(as_html(report_of(used, controller=Controller(controller="ACME <GmbH>"))))
    assert "ACME <GmbH>" in page.text and UNSAID in page.text


@ON_BOTH
def test_it_is_the_same_on_either_database(keystore: Keystore, make) -> None:
    make.take(keystore, make.approved(keystore, "a.png"))
    (one,) = report_of(keystore.path, words=True).disclosures
    assert (one.released_to, one.images) == ("alice", ["photos/a.png"])
