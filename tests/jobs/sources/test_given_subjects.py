"""Whose picture is which, said beside a folder or tar shards, up to the erasure of all that are one person's."""

from pathlib import Path

import pytest

from jobs.blocks import ID, SUBJECT
from jobs.errors import SourceError
from jobs.sources.given_faces import GivenInput
from jobs.sources.source import open_source
from tests.jobs.conftest import MakeConfig
from tests.jobs.sources.test_sources import read_all
from tests.jobs.sources.test_tar_shards import shard


@pytest.fixture
def subjects(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "b").mkdir(parents=True)
    for name in ("a.jpg", "b/a.jpg", "c.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    return tmp_path / "subjects.csv"


def test_pictures_of_folders_and_shards_carry_their_subjects(
    subjects: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    subjects.write_text('file,subject\na.jpg,Ann\n"b/a.jpg","Ann"\nc.jpg,"B, é"\na.jpg,Ann\n')
    config = make_config(subjects=subjects)
    source = open_source(config, config.given())
    assert {row[ID]: row[SUBJECT] for row in read_all(source)} == {"a.jpg": "Ann", "b/a.jpg": "Ann", "c.jpg": "B, é"}
    before = source.given_digest
    subjects.write_text("file,subject\na.jpg,Ann\n")
    source = open_source(config, config.given())
    assert {row[SUBJECT] for row in read_all(source)} == {"Ann", None} and source.given_digest != before
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").write_bytes(shard(("x/a.jpg", b"x"), ("y.jpg", b"y")))
    subjects.write_text("file,subject\n0.tar/x/a.jpg,Ann\n")
    rows = read_all(open_source(make_config(photos=tmp_path / "tars"), GivenInput(subjects=subjects)))
    assert {row[ID]: row[SUBJECT] for row in rows} == {"0.tar/x/a.jpg": "Ann", "0.tar/y.jpg": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header must be file,subject"),
        ("name,subject\n", "line 1: the header"),
        ("file,subject\na.jpg\n", "line 2: must be"),
        ("file,subject\na.jpg,\n", "line 2: a subject must have 1 to"),
        ("file,subject\n,Ann\n", "line 2: must be"),
        ("file,subject\na.jpg,Ann\na.jpg,Bea\n", r"line 3: 'a\.jpg' has another subject above"),
        ('file,subject\na.jpg,"Ann\n', "not CSV"),
        ("file,subject\nd.jpg,Ann\n", r"1 pictures that are not in the input \('d\.jpg'\)"),
        (f"file,subject\na.jpg,{'x' * 1025}\n", "line 2: a subject must have 1 to"),
    ],
    ids=range(9),
)
def test_a_bad_line_is_refused_by_its_number(subjects: Path, make_config: MakeConfig, text: str, message: str) -> None:
    subjects.write_text(text)
    with pytest.raises(SourceError, match=message):
        open_source(make_config(), GivenInput(subjects=subjects))
    subjects.unlink()
    with pytest.raises(SourceError, match="can not be read as a file of subjects"):
        open_source(make_config(), GivenInput(subjects=subjects))
