"""Image references, read as Docker reads them."""

from __future__ import annotations

import pytest

from shoal.rules.image import is_pinned, parse, repository_and_version, with_tag

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest"),
    [
        ("nginx", "docker.io/library/nginx", "", ""),
        ("nginx:1.27", "docker.io/library/nginx", "1.27", ""),
        ("team/app", "docker.io/team/app", "", ""),
        ("docker.io/nginx", "docker.io/library/nginx", "", ""),
        ("index.docker.io/nginx", "docker.io/library/nginx", "", ""),
        ("localhost/app", "localhost/app", "", ""),
        ("localhost:5000/app:2", "localhost:5000/app", "2", ""),
        ("quay.io/a/b/c:v1", "quay.io/a/b/c", "v1", ""),
        ("[::1]:5000/app", "[::1]:5000/app", "", ""),
        (f"nginx@{DIGEST}", "docker.io/library/nginx", "", DIGEST),
        (f"h:1/a__b/c.d-e:T@{DIGEST}", "h:1/a__b/c.d-e", "T", DIGEST),
        (DIGEST, DIGEST, "", ""),
    ],
)
def test_a_reference_is_read(text: str, repository: str, tag: str, digest: str) -> None:
    image = parse(text)
    assert (image.repository, image.tag, image.digest) == (repository, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "Nginx",
        "a//b",
        "/a",
        "a:",
        "a:b c",
        "a@sha256:12",
        "a:" + "x" * 129,
        "-a",
        "h:port/a",
        "a" * 256,
        "a b",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|longer"):
        parse(text)


def test_a_missing_tag_is_latest() -> None:
    assert with_tag("nginx") == "nginx:latest"
    assert with_tag("h:1/nginx") == "h:1/nginx:latest"
    assert with_tag("nginx:1") == "nginx:1"
    assert with_tag(f"nginx@{DIGEST}") == f"nginx@{DIGEST}"


def test_a_digest_or_id_fixes_the_content_and_a_tag_does_not() -> None:
    assert is_pinned(f"nginx@{DIGEST}")
    assert is_pinned("a" * 64)
    assert not is_pinned("nginx:1")


@pytest.mark.parametrize(
    ("text", "pull"),
    [
        ("nginx", ("nginx", "latest")),
        ("h:5000/a:2", ("h:5000/a", "2")),
        (f"a:1@{DIGEST}", ("a", DIGEST)),
        (f"a@{DIGEST}", ("a", DIGEST)),
    ],
)
def test_what_the_engine_is_asked_to_pull(text: str, pull: tuple[str, str]) -> None:
    assert repository_and_version(text) == pull
