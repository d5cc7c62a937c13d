from __future__ import annotations

import pytest

from binder_http.accesslog import target


@pytest.mark.parametrize(
    ("path", "query", "shown"),
    [
        (b"/health", b"", "/health"),
        (b"/build/gh/a/b/HEAD", b"build_only=true", "/build/gh/a/b/HEAD?build_only=true"),
        (b"/x", b"token=s3cret&build_token=s3cret&a=s3cret", "/x?token=***&build_token=***&a=***"),
        (b"/x", b"token=&%74oken=s3cret", "/x?token=***&token=***"),
        (b"/x", b"s3cret%", "/x?s3cret%=***"),
        (b"/build/git/https%3A%2F%2Fme%3As3cret%40h%2Fr/HEAD", b"",
         "/build/git/https%3A%2F%2F***@h%2Fr/HEAD"),
        (b"/build/git/https://me:s3cret@h/r/HEAD", b"", "/build/git/https://***@h/r/HEAD"),
        (b"/build/git/https%3a%2f%2fs3cret@me@h%2fr/HEAD", b"",
         "/build/git/https%3a%2f%2f***@h%2fr/HEAD"),
        (b"/a\nb\x1b[31m", b"", "/a�b�[31m"),
        (b"/\xff", b"", "/\\xff"),
        (b"/" + b"a" * 1000, b"", "/" + "a" * 299 + "…"),
    ],
)  # fmt: skip
def test_what_is_logged_of_a_request(path: bytes, query: bytes, shown: str) -> None:
    assert target(path, query) == shown
