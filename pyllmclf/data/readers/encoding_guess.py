"""Which encoding the bytes of a file are in: marks, the places of zero bytes, what is typical of Western texts."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable

# The longer marks first: that of UTF-16 begins that of UTF-32.
MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
HEAD = 1 << 16
FALLBACK = "cp1252"

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# First bytes of files that hold no text, and what they are.
_SIGNATURES = (
    (
        re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0\0\0\0|II\*\0|MM\0\*|RIFF.{4}WEBP", re.DOTALL),
        "an image",
    ),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (
        re.compile(rb"\x80[\x02-\x05][\x95}\](KX\x8c.c]"),
        "a pickle, which is never opened, since that could run its code",
    ),
    (re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an old Office document; save it as CSV or .xlsx"),
    (re.compile(rb"PK\x03\x04"), "an Office document or an archive"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|.{257}ustar", re.DOTALL), "an archive; unpack it first"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array"),
    (re.compile(rb"SQLite format 3\0"), "a database"),
    (
        re.compile(rb"\x89HDF\r\n|PAR1|ARROW1|ORC"),
        "a table in a binary format; its name must have that format's ending",
    ),
    (re.compile(rb"\x7fELF|MZ.{50,60}\0\0|\xca\xfe\xba\xbe", re.DOTALL), "a program"),
    (re.compile(rb"OggS|ID3|fLaC|RIFF.{4}WAVE|\x1aE\xdf\xa3|.{4}ftyp", re.DOTALL), "a recording"),
)


def mark_of(head: bytes) -> tuple[bytes, str] | None:
    """The byte order mark that a file begins with, and its encoding."""
    return next(((mark, name) for mark, name in MARKS if head.startswith(mark)), None)


def wide_encoding(head: bytes, complete: bool) -> str | None:
    """Name of UTF-16 or UTF-32 without a mark, by the places of zero bytes; ``None`` for anything else.

    Parameters
    ----------
    head : bytes
        First bytes of the file, at most ``HEAD``.
    complete : bool
        Whether that is the whole file.
    """
    if b"\0" not in head:
        return None
    if complete and len(head) % 2:
        return None
    zeros = [head[i::4].count(0) for i in range(4)]
    quarter = max(1, len(head) // 4)
    for name, high in (("utf-32-le", 3), ("utf-32-be", 0)):
        if len(head) % 4 == 0 and zeros[high] == quarter and _is_text(head, name, complete):
            return name
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    # A text in Latin letters has a zero in most pairs of bytes, and all on one side; one in Chinese has few, at
    # digits and line ends, but is no UTF-8.
    for name, share, other in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        enough = share >= len(head) // 8 or (share and _decoded(head, "utf-8", complete) is None)
        if enough and other <= share // 50 and share + other >= 2 and _is_text(head, name, complete):
            return name
    return None


def is_western(pieces: Iterable[bytes]) -> bool:
    """Whether bytes that are no UTF-8 are plausible as cp1252, the encoding of Windows for Western languages.

    That is so if no other encoding is likelier: there is no valid multi-byte character of UTF-8, no control character,
    no byte that cp1252 lacks, and the bytes beyond ASCII stand as its letters and signs do in texts: letters not in
    long runs, as in Cyrillic or Chinese encodings, signs not inside words, as in those of Central Europe.
    """
    counts: Counter[str] = Counter()
    before = b""
    for piece in pieces:
        window = before[-4:] + piece
        if _UTF8.search(window) or _NO_WESTERN.search(piece):
            return False
        counts["high"] += len(_HIGH.findall(piece))
        counts["run"] += sum(map(len, _RUN.findall(piece)))
        counts["inside"] += len(_SIGN_IN_WORD.findall(piece))
        before = piece
    return counts["high"] > 0 and counts["run"] * 10 <= counts["high"] and counts["inside"] * 10 <= counts["high"]


def binary_kind(head: bytes) -> str | None:
    """What a file is that begins with these bytes and holds no text; ``None`` where they tell nothing."""
    return next((kind for pattern, kind in _SIGNATURES if pattern.match(head)), None)


def _is_text(head: bytes, encoding: str, complete: bool) -> bool:
    """Whether bytes decode to characters that texts hold."""
    text = _decoded(head, encoding, complete)
    return text is not None and bool(text.strip()) and not _CONTROL.search(text)


def _decoded(head: bytes, encoding: str, complete: bool) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head, final=complete)
    except UnicodeDecodeError:
        return None


# A ß before a closing quote or dash looks like a letter of N'Ko, which is rarer.
_UTF8 = re.compile(rb"[\xc2-\xde][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_NO_WESTERN = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f\x81\x8d\x8f\x90\x9d\xff]")
_HIGH = re.compile(rb"[\x80-\xff]")
_RUN = re.compile(rb"[\x80-\xff]{4,}")
_LETTER = rb"[A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\xfe]"
# Not ´, ·, the soft hyphen, quotes and dashes, which stand inside words, too.
_SIGN_IN_WORD = re.compile(
    _LETTER + rb"[\x82-\x84\x86-\x89\x8b\x95\x98\xa1-\xa9\xab\xac\xae-\xb3\xb6\xb8\xb9\xbb-\xbf](?=" + _LETTER + rb")"
)
