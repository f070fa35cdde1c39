"""Image names and TiKV versions."""

import pytest

from crds.contract.versions import Image, at_least, split_image


@pytest.mark.parametrize(
    ("image", "repository", "tag", "digest"),
    [
        ("br", "br", "", ""),
        ("pingcap/br", "pingcap/br", "", ""),
        ("pingcap/br:v8.5.0", "pingcap/br", "v8.5.0", ""),
        ("registry:5000/br", "registry:5000/br", "", ""),
        ("registry:5000/br:v8.5.0", "registry:5000/br", "v8.5.0", ""),
        ("br@sha256:abc", "br", "", "sha256:abc"),
        ("registry:5000/x/br@sha256:abc", "registry:5000/x/br", "", "sha256:abc"),
        ("registry:5000/x/br:v1@sha256:abc", "registry:5000/x/br", "v1", "sha256:abc"),
        ("", "", "", ""),
    ],
)
def test_split(image: str, repository: str, tag: str, digest: str) -> None:
    parts = split_image(image)
    assert parts == Image(repository=repository, tag=tag, digest=digest)
    assert str(parts) == image


@pytest.mark.parametrize(
    ("image", "tag", "expected"),
    [
        ("pingcap/br", "v8.5.0", "pingcap/br:v8.5.0"),
        ("pingcap/br", "", "pingcap/br"),
        ("registry:5000/br", "v8.5.0", "registry:5000/br:v8.5.0"),
        ("pingcap/br:nightly", "v8.5.0", "pingcap/br:nightly"),
        ("pingcap/br@sha256:abc", "v8.5.0", "pingcap/br@sha256:abc"),
    ],
)
def test_a_tag_is_added_only_where_none_is(image: str, tag: str, expected: str) -> None:
    assert split_image(image).with_tag(tag) == expected


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("v6.5.1", "v6.5.1", True),
        ("6.5.1", "v6.5.1", True),
        ("v6.5.0", "v6.5.1", False),
        ("v6.5", "v6.5.1", False),
        ("v7", "v6.5.1", True),
        ("v10.0.0", "v9.0.0", True),
        ("v6.5.1-alpha", "v6.5.1", False),
        ("v6.5.1-alpha", "v6.5.1-0", True),
        ("v6.5.1-alpha.9", "v6.5.1-alpha.10", False),
        ("v6.5.1-alpha", "v6.5.1-alpha.1", False),
        ("v6.5.1-1", "v6.5.1-alpha", False),
        ("v8.5.0+build", "v8.5.0", True),
        ("v8.5.0-20241125-ec8b81b", "v8.4.0", True),
    ],
)
def test_at_least(version: str, minimum: str, expected: bool) -> None:
    assert at_least(version, minimum) is expected


@pytest.mark.parametrize("version", ["nightly", "latest", "", "v8.x", "8.5.0.1"])
def test_a_version_that_is_none_is_what_the_caller_says(version: str) -> None:
    assert at_least(version, "v4.0.8-0")
    assert not at_least(version, "v6.5.1-0", unparsable=False)


def test_the_minimum_must_be_a_version() -> None:
    with pytest.raises(ValueError, match="no version"):
        at_least("v1", "new")


def test_a_version_of_thousands_of_digits_is_none() -> None:
    assert at_least("1" * 5000, "v6.5.1")
    assert not at_least(f"v6.5.1-{'1' * 5000}", "v6.5.1", unparsable=False)
