"""Names of places: what is one, and that no secret in one gets any further."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import ConfigError
from jobs.storage.place import as_place, check_endpoint, check_source, holds, split_uri

SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("out", Path("out")),
        ("/a/b", Path("/a/b")),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket/ü b", "s3://bucket/ü b"),
    ],
)
def test_a_place_is_a_path_or_a_bucket_with_a_prefix(text: str, place: Path | str) -> None:
    assert as_place(text) == place


@pytest.mark.parametrize(
    "text",
    ["s3:/bucket/out", "s3:bucket", "s3://", "s3:///out", "S3://bucket/out", "s3://B/out", "s3://b/out", "s3://bucket/a//b",
     "s3://bucket/../x", "s3://bucket/./x", "gs://bucket/out", "file:///tmp/out", "https://host/out", "s3://bucket:1/x"],
)  # fmt: skip
def test_what_looks_like_a_uri_never_becomes_a_folder(text: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        as_place(text)


@pytest.mark.parametrize(
    "text",
    [f"s3://AKIA:{SECRET}@bucket/out", f"s3://{SECRET}@bucket/out", f"s3://bucket/out?secret_key={SECRET}",
     f"s3://bucket?access_key={SECRET}", f"S3://AKIA:{SECRET}@bucket/out", f"s3:/AKIA:{SECRET}@bucket/out",
     f"s3://AKIA:a/b/{SECRET}@bucket/out", f"s3:////{SECRET}@bucket"],
)  # fmt: skip
def test_a_secret_in_a_uri_is_refused_and_not_repeated(text: str) -> None:
    for check in (as_place, check_source):
        with pytest.raises(ConfigError, match="credentials do not belong in a URI") as raised:
            check(text)
        assert SECRET not in str(raised.value) and "AKIA" not in str(raised.value)


@pytest.mark.parametrize(
    "text", [f"gs://user:{SECRET}@bucket/x", f"hdfs://host/x?Secret_Key={SECRET}", f"abfs://a/x?sig={SECRET}"]
)
def test_sources_of_other_schemes_carry_none_either(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_source(text)
    assert SECRET not in str(raised.value)


def test_sources_of_other_schemes_are_left_to_pyarrow() -> None:
    assert check_source("gs://anonymous@bucket/x") == "gs://anonymous@bucket/x"
    assert check_source("hdfs://host/x?user=me") == "hdfs://host/x?user=me"
    assert check_source("photos") == "photos"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000", "https://minio.example.com"])
def test_an_endpoint_is_an_address(url: str) -> None:
    assert check_endpoint(url) == check_endpoint(url + "/") == url


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9000", "ftp://host", "http://", "http://host?x=1", f"http://user:{SECRET}@host"]
)
def test_anything_else_is_none(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_endpoint(url)
    assert SECRET not in str(raised.value)


def test_a_folder_may_have_a_colon_or_slashes_in_its_name() -> None:
    for name in ("photos:2024", "://photos", "C:/photos"):
        assert as_place(name) == Path(name)
        assert check_source(name) == name


def test_places_that_hold_each_other(tmp_path: Path) -> None:
    assert holds("s3://bucket/a", "s3://bucket/a") and holds("s3://bucket/a", "s3://bucket/a/b")
    assert holds("s3://bucket", "s3://bucket/a")
    assert not holds("s3://bucket/a", "s3://bucket/ab") and not holds("s3://bucket/a/b", "s3://bucket/a")
    assert holds(tmp_path, tmp_path / "a") and not holds(tmp_path / "a", tmp_path)
    assert not holds(tmp_path, "s3://bucket") and not holds("s3://bucket", tmp_path)


@given(st.text())
def test_any_text_is_a_place_or_refused(text: str) -> None:
    try:
        place = as_place("s3://" + text)
    except ConfigError:
        return
    assert isinstance(place, str) and as_place(place) == place
    assert "/".join(part for part in split_uri(place) if part) == place.removeprefix("s3://")
