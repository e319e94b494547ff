"""Files that are not what their name says: pointers to data that was not fetched, archives, pages of a web server.

Nothing here bears identity.
"""

from __future__ import annotations

LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
BEGINNINGS = {
    b"\x1f\x8b": "compressed (gzip): unpack it first (gunzip)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd): unpack it first (zstd -d)",
    b"BZh": "compressed (bzip2): unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed (xz): unpack it first (unxz)",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save the sheet as CSV",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    b"SQLite format 3\x00": "a SQLite database: export its table as CSV",
    b"ARROW1": "an Arrow file: write it as parquet",
}


def what_it_is(data: bytes, kind: str) -> str:
    """What the bytes of a file read as ``kind`` really are, and what to do; "" where nothing speaks against it."""
    if not data:
        return "an empty file: it holds no rows"
    if data.startswith(LFS):
        return "a Git LFS pointer, the data was not fetched: run `git lfs pull` in its repository, or download the file"
    if data[:200].lstrip(b"./").removeprefix(b"git/").startswith(b"annex/objects/"):
        return "a git-annex pointer, the data was not fetched: run `git annex get` on it"
    if data.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML), not data: download the file itself"
    if data.startswith(b"PAR1"):
        return "" if kind == "parquet" else "a parquet file: set pool.format=parquet"
    return next((what for beginning, what in BEGINNINGS.items() if data.startswith(beginning)), "")
