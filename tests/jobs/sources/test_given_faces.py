"""Files and columns that say where faces are: what is read from them, and what is refused by line and field."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.blocks import FAILURE, GIVEN, ID, PERMANENT
from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, SourceError
from jobs.sources.box_files import MAX_FILE_BYTES, read_boxes
from jobs.sources.given_faces import GivenInput
from jobs.sources.source import Source, open_source
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE
from keyanon_core.faces.given import MAX_BOXES, GivenFaces
from tests.jobs.conftest import MakeConfig

FIVE = (UPRIGHT_TEMPLATE * 50 + 0.25).ravel().tolist()
HEADER = "file,x0,y0,x1,y1"
HEADER_15 = HEADER + "".join(f",l{at}" for at in range(10))
NUMBERS = pa.list_(pa.list_(pa.float64()))


def said(source: Source) -> dict[str, GivenFaces | None]:
    """What each row carries of what its user said."""
    rows = [row for unit in source.units((), lambda left: 3) for table in unit.read() for row in table.to_pylist()]
    return {row[ID]: None if row[GIVEN] is None else GivenFaces.from_json(row[GIVEN]) for row in rows}


def failures(source: Source) -> list[str]:
    return [row[FAILURE] for unit in source.units((), lambda left: 3) for t in unit.read() for row in t.to_pylist()]


def cleared(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**base, **change}.items() if value is not None}


def coco(path: Path, images: Any, annotations: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"images": images, "annotations": annotations, **more}))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    return tmp_path / "boxes"


def test_a_csv_gives_boxes_and_landmarks_to_the_pictures_it_names(
    photos: Path, boxes: Path, make_config: MakeConfig
) -> None:
    landmarks = ",".join(map(repr, FIVE))
    none = "," * 10
    lines = [f"a.jpg,1,2,30.5,40{none}", f'"sub/c.jpg",5,5,90,95,{landmarks}', f"a.jpg,50,2,80,40{none}", "", ""]
    boxes.write_text("\r\n".join([f"\ufeff{HEADER_15}", *lines]))
    found = said(open_source(make_config(), GivenInput(boxes=boxes)))
    assert found["b.jpg"] is None
    assert [face.box for face in found["a.jpg"].faces] == [(1, 2, 30.5, 40), (50, 2, 80, 40)]  # type: ignore[union-attr]
    (face,) = found["sub/c.jpg"].faces  # type: ignore[union-attr]
    assert face.box == (5, 5, 90, 95)
    assert np.array_equal(face.landmarks, np.reshape(FIVE, (5, 2)))  # type: ignore[arg-type]


def test_coco_gives_boxes_keypoints_and_the_size_they_are_for(
    photos: Path, boxes: Path, make_config: MakeConfig
) -> None:
    five = [value for x, y in np.reshape(FIVE, (5, 2)).tolist() for value in (x, y, 2)]
    hidden = [*five[:14], 0]
    images = [
        {"id": 7, "file_name": "a.jpg", "width": 640, "height": 480},
        {"id": "x", "file_name": "sub/c.jpg", "width": 640},
        {"id": 9, "file_name": "not/here.jpg"},  # without a box it names nothing that could be left as it is
    ]
    annotations = [
        {"image_id": 7, "bbox": [10, 20, 30, 40], "category_id": 2},
        {"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 1},
        {"image_id": "x", "bbox": [5, 5, 85, 90], "category_id": 2, "keypoints": five},
        {"image_id": "x", "bbox": [6, 5, 85, 90], "category_id": 2, "keypoints": hidden},
        {"image_id": "x", "bbox": [7, 5, 85, 90], "category_id": 2, "keypoints": five * 2},
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "Face"}]
    coco(boxes, images, annotations, categories=categories)
    found = said(open_source(make_config(), GivenInput(boxes=boxes, keep=boxes)))
    first, second = found["a.jpg"], found["sub/c.jpg"]
    assert first is not None and second is not None
    assert [face.box for face in first.faces] == [(10, 20, 40, 60)] and first.size == (640, 480)
    assert first.keep == ((10, 20, 40, 60), (1, 2, 4, 6))
    assert [face.landmarks is None for face in second.faces] == [False, True, True]
    assert second.size is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "line 1: the header must be file,x0"),
        ("a.jpg,1,2,3,4", "line 1: the header"),
        (f"{HEADER},score\na.jpg,1,2,30,40,1", "line 1: the header"),
        (f"{HEADER}\na.jpg,1,2,30", "line 2: 4 fields, and the header has 5"),
        (f"{HEADER}\na.jpg,1,2,30,40\na.jpg,1,two,30,40", "line 3, y0: 'two' is not a number"),
        (f"{HEADER}\na.jpg,1,nan,30,40", "line 2: y0"),
        (f"{HEADER}\na.jpg,30,2,1,40", "line 2: x1 must be larger"),
        (f"{HEADER}\n,1,2,30,40", "line 2: the picture's file name"),
        (f'{HEADER}\n"a.jpg,1,2,30,40', "line 2: not CSV"),
        (f"{HEADER_15}\na.jpg,1,2,30,40,5,5{',' * 8}", "line 2, l2: '' is not a number"),
        (f"{HEADER_15}\na.jpg,1,2,30,40{',5' * 10}", "line 2: its landmarks do not show a face"),
        (f"{HEADER}\n" + "a.jpg,1,2,30,40\n" * (MAX_BOXES + 1), f"line {MAX_BOXES + 2}: 'a.jpg' has more than"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "no list 'images'"),
        ("[1]", "no list 'images'"),
        ('{"images": [3], "annotations": []}', r"images\[0\]: not an object"),
        ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\]: the picture's file name"),
        ('{"images": [{"file_name": "a.jpg"}], "annotations": []}', r"images\[0\], id"),
    ],
)
def test_a_malformed_file_is_refused_by_line_and_field(boxes: Path, text: str, named: str) -> None:
    boxes.write_text(text)
    with pytest.raises(SourceError, match=named) as caught:
        read_boxes(boxes, regions=False)
    assert str(boxes) in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        ({"image_id": 2, "bbox": [1, 2, 3, 4]}, r"annotations\[1\], image_id: no picture"),
        ({"bbox": [1, 2, 3, 4]}, r"annotations\[1\], image_id: missing"),
        ({"image_id": 1, "bbox": [1, 2, 3]}, r"annotations\[1\], bbox"),
        ({"image_id": 1, "bbox": [1, 2, -3, 4]}, r"annotations\[1\]: x1 must be larger"),
        ({"image_id": 1, "bbox": [1, 2, "w", 4]}, r"annotations\[1\]: x1 must be a number"),
        ({"image_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1}, r"annotations\[1\], iscrowd"),
        ({"image_id": 1, "bbox": [1, 2, 3, 4], "keypoints": [1]}, r"annotations\[1\], keypoints"),
        ({"image_id": 1, "bbox": [1, 2, 3, 4], "keypoints": [5, 5, 2] * 5}, r"annotations\[1\]: its landmarks"),
    ],
)
def test_a_bad_annotation_is_refused_by_its_place(boxes: Path, annotation: dict[str, Any], named: str) -> None:
    good = {"image_id": 1, "bbox": [1, 2, 3, 4]}
    coco(boxes, [{"id": 1, "file_name": "a.jpg"}], [good, annotation])
    with pytest.raises(SourceError, match=named):
        read_boxes(boxes, regions=False)


def test_categories_of_which_none_is_the_face_are_refused(boxes: Path) -> None:
    image = [{"id": 1, "file_name": "a.jpg"}]
    coco(boxes, image, [], categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}])
    with pytest.raises(SourceError, match="one must be called 'face'"):
        read_boxes(boxes, regions=False)
    assert read_boxes(boxes, regions=True).by_id == {}
    coco(boxes, [*image, *image], [])
    with pytest.raises(SourceError, match="an earlier picture has it"):
        read_boxes(boxes, regions=False)


def test_a_file_that_is_no_text_or_not_there_is_refused(boxes: Path) -> None:
    with pytest.raises(SourceError, match="can not be read"):
        read_boxes(boxes, regions=False)
    with boxes.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(SourceError, match=f"more than the {MAX_FILE_BYTES}"):
        read_boxes(boxes, regions=False)
    boxes.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SourceError, match="UTF-8"):
        read_boxes(boxes, regions=False)


def test_names_that_no_picture_has_are_refused_before_anything_runs(
    photos: Path, boxes: Path, make_config: MakeConfig
) -> None:
    lines = [f"{name},1,2,30,40" for name in ("a.jpg", "A.jpg", "./b.jpg", "c.jpg", "d.jpg")]
    boxes.write_text("\n".join([HEADER, *lines]))
    for given in (GivenInput(boxes=boxes), GivenInput(keep=boxes)):
        with pytest.raises(SourceError, match=r"says something of 4 pictures .*'A.jpg', './b.jpg', 'c.jpg', \.\.\.\)"):
            open_source(make_config(), given)
    with pytest.raises(SourceError, match=r"says something of 4 pictures.*such as 'c.jpg'"):
        open_source(make_config(photos=photos / "sub" / "c.jpg", output=photos.parent / "o"), GivenInput(boxes=boxes))


def test_given_files_are_input_a_resumed_run_must_have_the_same(
    photos: Path, boxes: Path, make_config: MakeConfig
) -> None:
    boxes.write_text(f"{HEADER}\na.jpg,1,2,30,40\n")
    plain = open_source(make_config()).digest
    given = open_source(make_config(), GivenInput(boxes=boxes)).digest
    kept = open_source(make_config(), GivenInput(keep=boxes)).digest
    moved = boxes.rename(boxes.with_name("moved"))
    assert open_source(make_config(), GivenInput(boxes=moved)).digest == given
    moved.write_text(f"{HEADER}\na.jpg,1,2,30,41\n")
    changed = open_source(make_config(), GivenInput(boxes=moved)).digest
    assert len({plain, given, kept, changed}) == 4


def test_two_files_that_disagree_about_a_picture_are_refused(
    photos: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    files = [
        coco(tmp_path / name, [{"id": 1, "file_name": "a.jpg", "width": width, "height": 9}],
             [{"image_id": 1, "bbox": [1, 1, 5, 5]}])
        for name, width in (("one", 10), ("two", 11))
    ]  # fmt: skip
    with pytest.raises(SourceError, match="different sizes"):
        open_source(make_config(), GivenInput(boxes=files[0], keep=files[1]))


def write_parquet(photos: Path, **columns: pa.Array) -> None:
    for path in sorted(photos.rglob("*.jpg")):
        path.unlink()
    count = len(next(iter(columns.values())))
    pq.write_table(pa.table({"image": pa.array([b"x"] * count), **columns}), photos / "p.parquet")


POINT = pa.list_(pa.float32())
XYXY = pa.struct([(name, pa.float64()) for name in ("x0", "y0", "x1", "y1")])
XYWH = pa.struct([(name, pa.int32()) for name in "xywh"] + [("landmarks", POINT)])
PAIRS = pa.struct([*XYXY, pa.field("landmarks", pa.list_(POINT))])


@pytest.mark.parametrize(
    ("kind", "cell", "landmarks"),
    [
        (NUMBERS, [[1, 2, 31, 42]], False),
        (NUMBERS, [[1, 2, 31, 42, *FIVE]], True),
        (pa.list_(pa.list_(pa.int16(), 4)), [[1, 2, 31, 42]], False),
        (pa.large_list(XYXY), [{"x0": 1, "y0": 2, "x1": 31, "y1": 42}], False),
        (pa.list_(XYWH), [{"x": 1, "y": 2, "w": 30, "h": 40, "landmarks": FIVE}], True),
        (pa.list_(XYWH), [{"x": 1, "y": 2, "w": 30, "h": 40, "landmarks": None}], False),
        (
            pa.list_(PAIRS),
            [{"x0": 1, "y0": 2, "x1": 31, "y1": 42, "landmarks": np.reshape(FIVE, (5, 2)).tolist()}],
            True,
        ),
    ],
)
def test_a_column_of_boxes_is_read_in_each_documented_form(
    photos: Path, make_config: MakeConfig, kind: pa.DataType, cell: Any, landmarks: bool
) -> None:
    write_parquet(photos, at=pa.array([cell, None, []], kind))
    found = said(open_source(make_config(), GivenInput(boxes_column="at", keep_column="at")))
    given = found["p.parquet#0"]
    assert given is not None and (found["p.parquet#1"], found["p.parquet#2"]) == (None, None)
    assert [face.box for face in given.faces] == [(1, 2, 31, 42)] and given.keep == ((1, 2, 31, 42),)
    assert (given.faces[0].landmarks is not None) == landmarks


def test_a_bad_cell_costs_its_row_and_says_which_box(photos: Path, make_config: MakeConfig) -> None:
    good = [1.0, 2.0, 31.0, 42.0]
    cells = [
        [good, [31.0, 2.0, 1.0, 42.0]],
        [[float("nan"), 2.0, 31.0, 42.0]],
        [good, None],
        [[1.0, 2.0, 31.0]],
        [[1.0, None, 31.0, 42.0]],
        [good] * (MAX_BOXES + 1),
        [good] * MAX_BOXES,
    ]
    write_parquet(photos, at=pa.array(cells, NUMBERS))
    for column, given in (("boxes", GivenInput(boxes_column="at")), ("keep", GivenInput(keep_column="at"))):
        assert failures(open_source(make_config(), given)) == [
            f"bad_faces: {column}, box 1: x1 must be larger than x0",
            f"bad_faces: {column}, box 0: x0 must be a number within 1e+06 px",
            f"bad_faces: {column}, box 1: it is null",
            f"bad_faces: {column}, box 0: 3 numbers; a face has 4 (its box), or 14 with five landmarks",
            f"bad_faces: {column}, box 0: y0 must be a number within 1e+06 px",
            f"bad_faces: {column}: {MAX_BOXES + 1} boxes, more than the {MAX_BOXES} allowed for a picture",
            "",
        ]


def test_a_row_is_permanent_or_not_and_null_is_neither(photos: Path, make_config: MakeConfig) -> None:
    write_parquet(photos, permanent=pa.array([True, False, None]))
    source = open_source(make_config(), GivenInput(permanent_column="permanent"))
    rows = [row for unit in source.units((), lambda left: 3) for t in unit.read() for row in t.to_pylist()]
    assert [row[PERMANENT] for row in rows[:2]] == [True, False]
    assert [row[FAILURE].split(":")[0] for row in rows] == ["", "", "bad_permanent"]
    assert source.renamed == {}, "the user's column says the same as ours would"
    assert open_source(make_config()).renamed == {"permanent": "source_permanent"}


@pytest.mark.parametrize(
    ("column", "given", "named"),
    [
        (pa.array([1.0]), GivenInput(boxes_column="at"), "'at' is double; boxes_column must be a list of boxes"),
        (pa.array([["1"]]), GivenInput(keep_column="at"), "keep_column must be a list of boxes"),
        (pa.array([[{"x0": 1}]]), GivenInput(boxes_column="at"), "boxes_column must be a list of boxes"),
        (
            pa.array([[dict.fromkeys(("x0", "y0", "x1", "y1"), 1) | {"landmarks": ["1"]}]]),
            GivenInput(boxes_column="at"),
            "boxes_column must be a list of boxes",
        ),
        (
            pa.array([[dict.fromkeys(("x0", "y0", "x1", "y1"), 1) | {"landmarks": 1}]]),
            GivenInput(boxes_column="at"),
            "boxes_column must be a list of boxes",
        ),
        (pa.array([1]), GivenInput(permanent_column="at"), "permanent_column must be true or false"),
        (pa.array([1]), GivenInput(permanent_column="bt"), r"no column called 'bt' \(permanent_column\)"),
        (pa.array([1]), GivenInput(boxes=Path("f.csv")), "for Parquet name a column: boxes_column"),
        (pa.array([1]), GivenInput(keep=Path("f.csv")), "for Parquet name a column: keep_column"),
    ],
)
def test_a_column_or_file_that_does_not_fit_the_input_is_refused(
    photos: Path, make_config: MakeConfig, column: pa.Array, given: GivenInput, named: str
) -> None:
    write_parquet(photos, at=column)
    with pytest.raises(SourceError, match=named):
        open_source(make_config(), given)


def test_columns_are_refused_for_pictures(photos: Path, make_config: MakeConfig) -> None:
    for given in (GivenInput(boxes_column="b"), GivenInput(keep_column="b"), GivenInput(permanent_column="b")):
        with pytest.raises(SourceError, match="is of Parquet, and the input is pictures"):
            open_source(make_config(), given)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"faces": "given"}, "faces given needs boxes"),
        ({"faces": "given", "keep": "k.csv"}, "faces given needs boxes"),
        ({"faces": "aligned", "boxes": "b.csv"}, "leave out boxes"),
        ({"faces": "aligned", "keep_column": "k"}, "leave out keep_column"),
        ({"boxes_column": "b", "keep_column": "b"}, "another setting's column"),
        ({"permanent_column": "image"}, "another setting's column"),
        ({"keys": "discard"}, "leave out keystore"),
        ({"keys": "discard", "keystore": None, "kek": "file:x"}, "leave out kek"),
        ({"keys": "discard", "keystore": None, "permanent_column": "p"}, "leave out permanent_column"),
        ({"keys": "discard", "keystore": None, "fidelity": "lossless"}, "leave out fidelity lossless"),
        ({"keystore": None}, "keystore is missing"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AnonymizeConfig.load(None, cleared({"photos": "p", "output": "o", "keystore": "k"}, changes))


def test_what_is_said_about_faces_changes_the_digest_and_where_its_file_lies_does_not() -> None:
    base = {"photos": "p", "output": "o", "keystore": "k"}
    plain = AnonymizeConfig.load(None, base).digest()
    assert AnonymizeConfig.load(None, {**base, "boxes": "b.csv", "keep": "k.csv"}).digest() == plain
    changes = [
        {"faces": "aligned"}, {"boxes_column": "b"}, {"keep_column": "b"}, {"permanent_column": "b"},
        {"keys": "discard", "keystore": None},
    ]  # fmt: skip
    assert len({AnonymizeConfig.load(None, cleared(base, change)).digest() for change in changes} | {plain}) == 6
