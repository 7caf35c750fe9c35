"""Ids of any text: no published name leaves the output, and no two ids meet in one name or in a file and a folder."""

from pathlib import PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import PublishError
from jobs.names import (
    CHANGED_SUFFIXES,
    IMAGES,
    MAX_COMPONENT_BYTES,
    MAX_NAME_BYTES,
    SAME,
    SIDECARS,
    SUFFIXES,
    clashing_names,
    image_name,
    sidecar_name,
    suffix_of,
)
from tests.fuzz.conftest import PROFILE

searched = settings(settings.get_profile(PROFILE))

PARTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(("a.gif", "a.gif.png", "a.HEIC")),
    st.sampled_from(
        (
            "",
            ".",
            "..",
            "a",
            "A",
            "a.png",
            "a.jpg",
            "a.keyanon",
            "a.png.keyanon",
            "\0",
            "\n",
            "é",
            "e\u0301",
            "~",
            " ",
        )
    ),
    st.text(st.sampled_from("aé漢"), min_size=60, max_size=320),
)
IDS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def publishable(image_id: str, kind: str) -> bool:
    try:
        image_name(image_id, kind)
    except PublishError:
        return False
    return True


@searched
@given(image_id=IDS, kind=st.sampled_from(sorted(SUFFIXES)))
def test_a_published_name_stays_below_its_folder_and_fits_a_file_system(image_id: str, kind: str) -> None:
    if not publishable(image_id, kind):
        return
    for name, folder in ((image_name(image_id, kind), IMAGES), (sidecar_name(image_id), SIDECARS)):
        path = PurePosixPath(name)
        assert not path.is_absolute() and path.parts[0] == folder and len(path.parts) >= 2
        assert str(path) == name, "a file system would read it as another name"
        assert not {"..", "."} & set(path.parts) and "\0" not in name
        assert all(len(part.encode()) <= 255 for part in path.parts)
        if folder == SIDECARS or kind != SAME:
            assert len(path.name.encode()) <= MAX_COMPONENT_BYTES + len(".keyanon")
        elif suffix_of(image_id) in CHANGED_SUFFIXES:
            assert path.suffix == ".png"
        elif all(len(part.encode()) <= MAX_NAME_BYTES for part in image_id.split("/")):
            assert name == f"{IMAGES}/{image_id}", "labels of the data set fit"


@searched
@given(ids=st.lists(IDS, min_size=2, max_size=6, unique=True), kind=st.sampled_from(sorted(SUFFIXES)))
def test_no_two_ids_meet(ids: list[str], kind: str) -> None:
    usable = [image_id for image_id in ids if publishable(image_id, kind)]
    clashing = clashing_names(usable)
    kept = [image_id for at, image_id in enumerate(usable) if at not in clashing]
    for name_of in (lambda image_id: image_name(image_id, kind), sidecar_name):
        names = [name_of(image_id) for image_id in kept]
        assert len(set(names)) == len(names)
        folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
        assert not folders & set(names), "a file would have to be a folder as well"
