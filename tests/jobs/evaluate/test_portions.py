"""What was measured comes back from its portions: every face under its picture, with what is known of it and without the rest."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import PublishError, SourceError
from jobs.evaluate.given_groups import read_groups
from jobs.evaluate.measure_stage import PORTION_SCHEMA
from jobs.evaluate.portions import FOLDER, Portions, gathered
from jobs.evaluate.report import FACES, PAGE, REPORT, report_of, write_report
from keyanon_core.evaluation.faces import FACE_METRICS
from keyanon_core.evaluation.forms import FORMS

TOLD = dict.fromkeys(("made", "by", "machine", "sources"), "-") | {"source_pictures": 2, "chosen_pictures": 2}


def face(index: int, version: str, values: dict[str, float], vector: list[float] | None) -> dict[str, Any]:
    return {
        "face": index,
        "version": version,
        "tone": "dark",
        "view": f"{index} {version}".encode(),
        "values": list(values.items()),
        "vectors": [] if vector is None else [("eye", vector)],
    }


def picture(row: int, image_id: str, *faces: dict[str, Any], reason: str = "") -> dict[str, Any]:
    sizes = [] if reason else [("source", 10 + row), ("rehearsal-sidecar", 2000), ("crop-beside", 500)]
    missing = [] if reason else ["recovered: none"]
    return {
        "row": row,
        "image_id": image_id,
        "reason": reason,
        "missing": missing,
        "bytes": sizes,
        "faces": list(faces),
    }


@pytest.fixture
def portions(tmp_path: Path) -> Portions:
    """Two files; two pictures of one id; one face that the recognizer did not see; a version that one picture alone has."""
    first = [
        picture(
            2, "b", face(0, "source", {}, [1, 2]), face(0, "anonymized", {"found": 1, "psnr_face": np.nan}, [3, 4])
        ),
        picture(0, "a", reason="no_face: none was found"),
    ]
    second = [
        picture(
            1,
            "b",
            face(0, "source", {}, None),
            face(1, "source", {}, [5, 6]),
            face(0, "anonymized", {"found": 0}, None),
            face(1, "anonymized", {"found": 1}, [7, 8]),
            face(1, "blur", {"found": 1, "roll": 3}, None),
        ),
        picture(3, "c", reason="no_face: nor here"),
    ]
    kept = Portions(tmp_path)
    for rows in (first, second):
        kept.add(pa.Table.from_pylist(rows, schema=PORTION_SCHEMA))
    return kept


def test_every_face_is_under_its_picture_and_version(portions: Portions) -> None:
    found = gathered(portions)
    assert (found.images, found.rows, found.indices) == (["b", "b", "b"], [2, 1, 1], [0, 0, 1])
    assert found.faces.face.tolist() == [0, 0, 1, 2, 1, 2, 2]
    assert found.faces.versions == ["anonymized", "blur"] and set(found.faces.tone) == {"dark"}
    anonymized = found.faces.of("anonymized")
    assert anonymized.values["found"].tolist() == [1, 0, 1]
    assert np.isnan(anonymized.values["roll"]).all() and np.isnan(anonymized.values["psnr_face"]).all()
    np.testing.assert_array_equal(anonymized.vectors["eye"], [[3, 4], [np.nan, np.nan], [7, 8]])
    assert found.faces.of("blur").values["roll"].tolist() == [3]
    assert (found.pictures, found.unmeasured, found.stored_bytes["source"]) == (2, {"no_face": 2}, [12, 11])
    assert found.examples == {"no_face": "a: no_face: none was found"} and found.missing == {"recovered: none": 2}


def test_whom_a_picture_shows_is_known_of_its_one_face_and_numbered_through_all_portions(portions: Portions) -> None:
    assert gathered(portions).faces.people.person.tolist() == [-1] * 7, "nothing is said"
    said = {2: "eva", 1: "eva", 3: None, 0: "adam"}
    for path in portions.folder.iterdir():
        table = pq.read_table(path)
        column = pa.array([said[row] for row in table.column("row").to_pylist()], pa.string())
        at = table.column_names.index("subject")
        pq.write_table(table.set_column(at, "subject", column), path)
    found = gathered(portions)
    people = found.faces.of("source").people
    assert (people.person.tolist(), people.alone.tolist()) == ([0, 0, 0], [True, False, False])
    assert "eva" not in str(found.lines.to_pylist())
    for path in portions.folder.iterdir():  # as older versions kept them
        pq.write_table(pq.read_table(path).drop_columns("subject"), path)
    assert gathered(portions).faces.people.person.tolist() == [-1] * 7


def test_a_face_is_in_the_groups_that_are_said_of_its_picture_where_it_is_alone(portions: Portions) -> None:
    found = gathered(portions)
    found.divide({"gender": {"b": "f", "gone": "m"}, "age": {}})
    assert found.faces.of("source").traits["gender"].tolist() == ["f", "unknown", "unknown"], "two are in one picture"
    assert set(found.faces.traits["age"]) == {"unknown"}
    assert found.lines.column("group:gender").to_pylist() == ["f", "unknown", "unknown", "unknown"]


def test_a_file_of_groups_is_read_by_its_header_and_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("\ufefffile, gender,age\nb/a.jpg,f,\n\nc.jpg, m ,30 to 40\n", encoding="utf-8")
    groups = read_groups(path)
    assert groups.traits == {"gender": {"b/a.jpg": "f", "c.jpg": "m"}, "age": {"c.jpg": "30 to 40"}}
    refused = {
        "": "line 1: the header must be file",
        "file\n": "line 1: the header",
        "name,gender\n": "line 1: the header",
        "file,age,age\n": "line 1: the header",
        "file,a=b\n": "line 1: the header",
        "file,age\na.jpg\n": "line 2: must be a picture's name and 1 cells",
        "file,age\na.jpg,1\na.jpg,2\n": "line 3: 'a.jpg' is named above",
        "file,age\na.jpg,[1]\n": "line 2: age '.1.' must have",
        'file,age\n"a.jpg,1\n': "not CSV",
    }
    for text, says in refused.items():
        path.write_text(text)
        with pytest.raises(SourceError, match=says):
            read_groups(path)
    with pytest.raises(SourceError, match="can not be read as a file of groups"):
        read_groups(tmp_path / "none.csv")


def test_what_is_published_of_faces_holds_no_vector_no_view_and_no_number_that_is_none(portions: Portions) -> None:
    lines = gathered(portions).lines
    assert lines.column_names == ["image_id", "face", "version", "tone", "found", "psnr_face", "roll"]
    assert lines.column("version").to_pylist() == ["anonymized", "anonymized", "anonymized", "blur"]
    assert lines.column("face").to_pylist() == [0, 0, 1, 1]
    assert lines.column("psnr_face").null_count == 4 and lines.column("roll").to_pylist() == [None, None, None, 3]


def test_views_are_those_of_a_picture_and_not_of_another_one_of_its_id(portions: Portions) -> None:
    assert portions.views({(2, 0), (1, 1)}) == {
        (2, 0): {"source": b"0 source", "anonymized": b"0 anonymized"},
        (1, 1): {version: f"1 {version}".encode() for version in ("source", "anonymized", "blur")},
    }


def test_what_is_done_is_known_and_of_its_owner_only(portions: Portions) -> None:
    assert portions.done() == {0, 1, 2, 3}
    assert portions.folder.name == FOLDER and portions.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in portions.folder.iterdir()} == {0o600}


def test_a_damaged_portion_is_named(portions: Portions) -> None:
    damaged = sorted(portions.folder.iterdir())[0]
    damaged.write_bytes(b"PAR1")
    with pytest.raises(PublishError, match=f"{damaged.name} can not be read .* remove it"):
        gathered(portions)


def test_of_pictures_without_a_face_there_is_an_empty_table(tmp_path: Path) -> None:
    portions = Portions(tmp_path)
    portions.add(pa.Table.from_pylist([picture(0, "a", reason="no_face: none")], schema=PORTION_SCHEMA))
    found = gathered(portions)
    assert (len(found.faces.face), found.images, found.faces.versions, found.unmeasured) == (0, [], [], {"no_face": 1})


def test_forms_are_told_of_the_same_faces_with_what_lies_beside_them(tmp_path: Path) -> None:
    """The second face was tried in no form; the first one came back from no picture of another size."""

    def told(version: str, likeness: float) -> dict[str, Any]:
        return face(0, version, dict.fromkeys(FACE_METRICS, 0.0) | {"psnr_face": likeness}, None)

    tried = picture(0, "a", face(0, "source", {}, None), told("anonymized", 9), told("rehearsal-recovered", 40),
                    told("rehearsal-jpeg-50-recovered", 39), told("rehearsal-sidecar-16-bits-recovered", 60))  # fmt: skip
    tried["bytes"] = [("rehearsal-sidecar", 2000), ("rehearsal-sidecar-16-bits-beside", 4000)]
    portions = Portions(tmp_path / "kept")
    other = picture(1, "b", face(0, "source", {}, None), told("anonymized", 9), told("rehearsal-recovered", 10))
    portions.add(pa.Table.from_pylist([tried, other], schema=PORTION_SCHEMA))
    found = gathered(portions)
    report = report_of(found, dict.fromkeys(("made", "by", "machine", "sources"), "x")
                       | {"source_pictures": 2, "chosen_pictures": 2})  # fmt: skip
    forms = {one["form"]: one for one in report["forms"]}
    assert list(forms) == list(FORMS)
    said = {name: (one["faces"], one["psnr_face"], one.get("db_per_kb")) for name, one in forms.items() if one["faces"]}
    assert said == {
        "rehearsal-recovered": (1, 40, 20),
        "rehearsal-jpeg-50-recovered": (1, 39, 19.5),
        "rehearsal-sidecar-16-bits-recovered": (1, 60, 15),
    }
    write_report(tmp_path, report, found, portions)
    page = (tmp_path / PAGE).read_text()
    table = page[page.index("What a face comes back from") : page.index("<h2>Faces")]
    assert table.count("<tr>") == 1 + len(FORMS) and "19.5" in table
    assert "<th>rehearsal-recovered</th>" in page and "<th>rehearsal-jpeg-50-recovered</th>" not in page
    assert gathered(Portions(tmp_path)).faces.versions == []


def test_a_name_that_is_code_or_turns_lines_round_is_shown_as_what_it_is(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\u202egpj.exe\x1b[31m\u200b'\".jpg"
    values = dict.fromkeys(FACE_METRICS, 0.0) | {"distance:eye": 0.1, "accepted:eye": 1.0}
    faces = [face(0, "source", {}, [1, 2]), face(0, "anonymized", values, [1, 2])]
    portions = Portions(tmp_path / "kept")
    portions.add(pa.Table.from_pylist([picture(0, hostile, *faces), picture(1, hostile, reason=f"other_size: {hostile}")],
                                      schema=PORTION_SCHEMA))  # fmt: skip
    found = gathered(portions)
    report = report_of(found, TOLD | dict.fromkeys(("made", "by", "machine", "sources"), hostile))
    write_report(tmp_path, report, found, portions)
    assert {one["key"]: one["value"] for one in report["figures"]}["anonymized.measured"] == 0.5
    page = (tmp_path / PAGE).read_text()
    assert "<script" not in page and not set(page) & set("\u202e\x1b\u200b")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202egpj.exe\\x1b[31m\\u200b&#39;&#34;.jpg" in page
    assert json.loads((tmp_path / REPORT).read_bytes())["findings"][0]["faces"][0]["image_id"] == hostile
    assert pq.read_table(tmp_path / FACES).column("image_id").to_pylist() == [hostile]


def reported(place: Path, *faces: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The report of one picture's faces, and its page."""
    portions = Portions(place)
    portions.add(pa.Table.from_pylist([picture(0, "a", *faces)], schema=PORTION_SCHEMA))
    found = gathered(portions)
    report = report_of(found, TOLD)
    write_report(place, report, found, portions)
    return report, (place / PAGE).read_text()


def test_what_must_be_looked_at_is_named_worst_first_and_all_of_it_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.evaluate.report.MOST_NAMED", 2)
    changed = [0.5, 0.05, 0.0, np.nan, 0.09, 0.1]
    accepted = [1, 0, 0, 1, 0, 0]
    faces = []
    for at, (share, taken) in enumerate(zip(changed, accepted, strict=True)):
        values = dict.fromkeys(FACE_METRICS, 1.0) | {"changed_face": share, "accepted:eye": taken}
        values |= {"distance:eye": (6 - at) / 10, "psnr_face": at}
        faces += [face(at, "source", {}, [at, 1]), face(at, "anonymized", values, [at, 2])]
        faces += [face(at, version, values, [at, 1]) for version in ("rehearsal-recovered", "crop-recovered")]
    report, page = reported(tmp_path, *faces)
    told = {one["finding"]: one for one in report["findings"]}
    assert [one["face"] for one in told["untouched"]["faces"]] == [2, 1]
    assert [one["face"] for one in told["accepted.eye"]["faces"]] == [3, 0]
    assert [(one["count"], one["of"]) for one in told.values()] == [(3, 6), (2, 6)]
    assert report["db_per_kb"] == {"rehearsal-recovered": 2.5 / 2, "crop-recovered": 2.5 / 0.5}
    strangers = re.findall(r'class="s0" points="([^"]*)"', page)[0].split()
    assert "source is the nearest of all</th>" in page and "TAR at FAR 1 %</th>" not in page, "30 pairs are too few"
    assert "Two anonymizations" not in page, "without a second key"
    assert (strangers[0], strangers[8], strangers[-1]) == ("8.0,200.0", "136.0,0.0", "632.0,160.0"), "0, 10 and 2 of 30"
    shown = re.findall(r"<h3>([^<]*)</h3>|face (\d): (\S+)<br>", page)
    titles = [title for title, _, _ in shown if title]
    assert titles[2:5] == [
        f"anonymized: {rule} distance from its source by eye" for rule in ("lowest", "middle", "highest")
    ]
    assert [(int(index), value) for title, index, value in shown if not title][:12] == [
        *((5, "0.1"), (4, "0.2"), (3, "0.3"), (2, "0.4")),
        *((4, "0.2"), (3, "0.3"), (2, "0.4"), (1, "0.5")),
        *((3, "0.3"), (2, "0.4"), (1, "0.5"), (0, "0.6")),
    ]


@pytest.mark.parametrize("seen", [[1, 2], None])
def test_where_no_recognizer_sees_a_face_all_else_is_reported(tmp_path: Path, seen: list[float] | None) -> None:
    values = dict.fromkeys(FACE_METRICS, 0.0)
    others = [face(0, "anonymized", values, None), face(0, "blur", {"found": 0.5}, None)]
    report, page = reported(tmp_path, face(0, "source", {}, seen), *others)
    assert [one["finding"] for one in report["findings"]] == ["untouched"] and "a, face 0 (0)" in page
    (cells,) = re.findall(r"PSNR in the face, dB</th>\s*<td[^>]*>(.*?)</td>\s*<td[^>]*>(.*?)</td>", page)
    assert cells == ("0", ""), "of one face no interval, of a version that is not known nothing"
