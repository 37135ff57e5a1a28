"""Control characters and noncharacters: where text may hold them, and how a person sees them.

Readers remove controls and noncharacters from texts and refuse ids that hold them. Direction controls are text and stay
in the data. Terminals, charts and spreadsheets get a visible sign in place of each of these characters.
"""

import re

import polars as pl

# All controls except tab and line feed. U+0085, U+2028 and U+2029 are here because some readers take them for line
# ends.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
# The last two code points of each plane, and the block U+FDD0 to U+FDEF, which Unicode reserves.
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(f"{chr(end - 1)}{chr(end)}" for end in range(0xFFFF, 0x110000, 0x10000))
# Embeddings, overrides and isolates: they can show "gnp.exe" as "exe.png" (https://trojansource.codes).
_DIRECTIONS = "\u202a-\u202e\u2066-\u2069"
# Surrogates: Python holds a file name that is not valid UTF-8 with them.
_SURROGATES = "\ud800-\udfff"

_ZERO_WIDTH = "[\u200b-\u200d\u2060\ufeff]"
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&apos;": "'", "&nbsp;": " ", "&amp;": "&"}

_NO_TEXT = f"[\t\n{_CONTROLS}{_NONCHARACTERS}]"
_NOT_SHOWN = re.compile(f"[{_CONTROLS}{_NONCHARACTERS}{_DIRECTIONS}{_SURROGATES}]")
_CONTROL_PICTURES = 0x2400
_DELETE, _PICTURE_OF_DELETE = "\x7f", "\u2421"
_REPLACEMENT = "\ufffd"

# First characters that make a spreadsheet evaluate a cell (OWASP, "CSV Injection"). Plain numbers such as -1.5 are
# exempt.
_FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def visible(text: str) -> str:
    """Replace each character that a terminal obeys or a chart cannot draw by a visible sign.

    Tabs and line feeds stay. ESC becomes ␛, so that a hidden escape sequence is seen.

    Examples:
        >>> visible("red \x1b[31mtext")
        'red ␛[31mtext'
    """
    return _NOT_SHOWN.sub(lambda found: _sign(found[0]), text)


def _sign(character: str) -> str:
    if character < " ":
        return chr(_CONTROL_PICTURES + ord(character))
    return _PICTURE_OF_DELETE if character == _DELETE else _REPLACEMENT


def holds_controls(text: pl.Expr) -> pl.Expr:
    """Return whether a text holds a control, tab, line end or noncharacter; False for null."""
    return text.str.contains(_NO_TEXT).fill_null(False)


def searchable(text: pl.Expr) -> pl.Expr:
    """Write a text as a person types it: composed (NFC), without zero-width characters and HTML entities.

    Examples:
        >>> titles = pl.DataFrame({"title": ["Tom &amp; Jerry", "Ame\u0301lie", "He\u200bat"]})
        >>> titles.select(searchable(pl.col("title")))["title"].to_list()
        ['Tom & Jerry', 'Amélie', 'Heat']
    """
    composed = text.str.normalize("NFC").str.replace_all(_ZERO_WIDTH, "")
    # The ampersand comes last, so that "&amp;lt;" becomes "&lt;".
    for entity, character in _ENTITIES.items():
        composed = composed.str.replace_all(entity, character, literal=True)
    return composed


def without_controls(text: pl.Expr) -> pl.Expr:
    """Replace runs of controls, tabs, line ends and noncharacters by one space, and strip both ends."""
    return text.str.replace_all(f"{_NO_TEXT}+", " ").str.strip_chars()


def without_formulas(text: pl.Expr) -> pl.Expr:
    """Put an apostrophe before a text that a spreadsheet would evaluate; a plain number such as -1.5 stays a number."""
    is_plain = ~text.str.contains(_FORMULA) | text.str.contains(_NUMBER)
    return pl.when(is_plain).then(text).otherwise("'" + text)
