"""The protocol's pictures are those of their makers' lists, in their order; a list that is not whole is refused by its line."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from jobs.errors import ConfigError, SourceError
from jobs.evaluate.paper import lists
from jobs.evaluate.paper.lists import CELEBA_HQ, LFW, Sample, celeba_samples, lfw_samples
from jobs.evaluate.paper.pieces import missing_pieces
from jobs.storage.opening import open_store
from keyanon_core.faces.facexlib_models import BISENET, RETINAFACE

DEV = "2\nAnn\t1\t2\nBob_Y\t3\t1\nAnn\t1\tBob_Y\t1\nAnn\t2\tBob_Y\t3\n"


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    for name in ("Ann_0001.jpg", "Ann_0002.jpg", "Ann_0010.JPG", "Bob_Y_0001.jpg", "Bob_Y_0003.png"):
        folder = tmp_path / "lfw" / "all" / name.rpartition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * len(name))
    (tmp_path / "lfw" / "Ann_0001.txt").write_text("no picture")
    return tmp_path / "lfw"


def samples(lfw: Path, *texts: str) -> list[Sample]:
    files = [lfw.parent / f"pairs{number}.txt" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return lfw_samples(open_store(lfw), files)


def test_the_second_picture_of_each_matched_pair_is_anonymized(lfw: Path) -> None:
    """Of LFW's lists by header: of one set, of folds, and none; those of two people are passed over."""
    folds = "2 1\nAnn\t2\t10\nAnn 1 Bob_Y 1\n\nBob_Y 1 3\nAnn 1 Bob_Y 3\n"
    with pytest.raises(SourceError, match=r"pairs1\.txt, line 5 names the pair of .*pairs0\.txt, line 3 again"):
        samples(lfw, DEV, folds)
    found = samples(lfw, DEV, "Ann 10 2\r\n")
    assert [(one.image_id, one.picture, one.other, one.person, one.part) for one in found] == [
        ("lfw/Ann 1 2", "all/Ann/Ann_0002.jpg", "all/Ann/Ann_0001.jpg", 0, 0),
        ("lfw/Bob_Y 3 1", "all/Bob_Y/Bob_Y_0001.jpg", "all/Bob_Y/Bob_Y_0003.png", 1, 0),
        ("lfw/Ann 10 2", "all/Ann/Ann_0002.jpg", "all/Ann/Ann_0010.JPG", 0, 0),
    ]
    assert {one.data_set for one in found} == {LFW} and found[0].size == 24


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (DEV.replace("Ann\t1\t2\n", ""), r"pairs0\.txt says 2 matched pairs in its first line and names 1"),
        ("Ann\t1\ttwo\n", "line 1 is no pair of LFW"),
        ("2\n2\nAnn 1 2\n", "line 2 is no pair of LFW"),
        ("Ann 1 2 Bob 3\n", "line 1 is no pair of LFW"),
        ("Ann 0 2\n", "line 1 is no pair of LFW"),
        ("Ann 1 ²\n", "line 1 is no pair of LFW"),
        ("Ann 2 2\n", "line 1 names one picture twice"),
        ("Ann 1 2\nAnn 1 3\n", r"line 2 names Ann_0003, and there is no such picture below"),
        ("Ann 1 Bob_Y 1\n", "name no matched pair"),
    ],
)
def test_a_list_of_pairs_that_is_not_whole_is_refused_by_its_line(lfw: Path, text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        samples(lfw, text)


def test_a_folder_that_holds_lfw_twice_is_refused(lfw: Path) -> None:
    (lfw / "funneled").mkdir()
    (lfw / "funneled" / "Ann_0001.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"Ann_0001\.jpg; give a folder that holds LFW once"):
        samples(lfw, DEV)


def test_celeba_hq_is_sorted_by_number_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "CELEBA_PART", 10)
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{number}.jpg" for number in range(21)]
    for name in names:
        (folder / name).touch()
    found = celeba_samples(open_store(folder), None)
    assert [one.picture for one in found] == names
    assert [found[at].part for at in (0, 9, 10, 20)] == [0, 0, 1, 2]
    assert (found[9].image_id, found[9].other, {one.data_set for one in found}) == (
        "celeba-hq/9.jpg",
        None,
        {CELEBA_HQ},
    )

    listed = tmp_path / "some.txt"
    listed.write_text("17.jpg\n\n3.jpg\n")
    assert [one.picture for one in celeba_samples(open_store(folder), listed)] == ["17.jpg", "3.jpg"]
    listed.write_text("17.jpg\nelsewhere.jpg\n")
    with pytest.raises(SourceError, match=r"line 2 names elsewhere\.jpg, and there is no such picture"):
        celeba_samples(open_store(folder), listed)
    listed.write_text("17.jpg\n3.jpg\n17.jpg\n")
    with pytest.raises(SourceError, match=r"line 3 names 17\.jpg again, after line 1"):
        celeba_samples(open_store(folder), listed)
    strange = folder / os.fsdecode(b"\xff21.jpg")
    strange.touch()
    last = celeba_samples(open_store(folder), None)[-1]
    assert last.picture == strange.name and last.image_id.encode(), "an id that can be written"
    strange.unlink()
    (folder / "00017.png").touch()
    with pytest.raises(SourceError, match=r"00017\.png and 17\.jpg, which are both number 17"):
        celeba_samples(open_store(folder), None)
    (folder / "00017.png").rename(folder / "00017_hair.png")
    with pytest.raises(SourceError, match=r"00017_hair\.png is called by no number"):
        celeba_samples(open_store(folder), None)


@pytest.mark.skipif(find_spec("facexlib") is None, reason="it is missing, too")
def test_everything_that_is_missing_is_said_at_once_and_what_is_there_is_not(lfw: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        missing_pieces({})
    said = str(raised.value)
    needed = [line for line in said.splitlines() if line.startswith("- needed: ")]
    assert len(needed) == 4 and all(option in said for option in ("--prior DIR", "--face-weights DIR", "--lfw DIR"))
    assert all(
        f"{option} " in said or f"{option})" in said
        for option in ("--lfw-pairs FILE", "--celeba-hq DIR", "--inception FILE", "--recognizer arcface=FILE")
    )
    (tmp_path / f"{BISENET.stem}.safetensors").touch()
    given = {"prior": tmp_path, "face_weights": tmp_path, "lfw": lfw}
    with pytest.raises(ConfigError) as raised:
        missing_pieces({**given, "recognizers": (f"net={tmp_path / 'none.onnx'}:arcface",)})
    needed = [line for line in str(raised.value).splitlines() if line.startswith("- needed: ")]
    assert [line.split(" (")[0] for line in needed] == [
        "- needed: RetinaFace, which finds the faces",
        "- needed: LFW's matched pairs",
        "- needed: recognizer net",
    ]
    for file in (tmp_path / f"{RETINAFACE.stem}.pth", tmp_path / "pairs.txt"):
        file.touch()
    left = missing_pieces({**given, "lfw_pairs": (tmp_path / "pairs.txt",)})
    assert [(one.what, one.lacking) for one in left] == [
        ("Inception's weights", "realism"),
        ("the pictures of CelebA-HQ", ""),
        ("FaceNet of VGGFace2", "identity"),
        ("ArcFace-R50", "identity"),
    ]
