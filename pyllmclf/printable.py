"""Text that is safe to show: control characters of labels, names and errors become visible escapes."""

from __future__ import annotations

import re

# Controls (C0, DEL, C1), line and paragraph separators, marks that reorder text, and lone surrogates. Characters that
# join others, as in emoji and Indic scripts, stay.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(value: object, keep: str = "") -> str:
    """Text of a value with control characters as ``\\x1b``, ``\\n``, ``\\u202e``: it stays on its line of a terminal.

    Parameters
    ----------
    value : object
        Its ``str`` is shown.
    keep : str
        Characters that stay, such as newlines in a page.
    """
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), str(value))


def _escape(char: str) -> str:
    code = ord(char)
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def shown(value: object, longest: int = 80) -> str:
    """``repr`` of a value for a message, shortened; also of integers with more digits than Python prints."""
    try:
        text = repr(value)
    except ValueError:
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else f"<{type(value).__name__}>"
    return text if len(text) <= longest else f"{text[:longest]}..."
