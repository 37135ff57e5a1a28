"""Characters that text from data may hold and that no terminal, chart or spreadsheet should get as they are.

Controls and noncharacters are no text: reading takes them out of texts and refuses ids with them. Controls of the
direction of writing are text, and stay in the data; where people read, all of these are shown as signs of their own.
"""

import re

import polars as pl

# Controls (but for tab and line feed), U+0085 among them, and the two separators that some readers take for line ends.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
# The last two characters of each plane, and those that Unicode keeps free.
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(f"{chr(end - 1)}{chr(end)}" for end in range(0xFFFF, 0x110000, 0x10000))
# Embeddings, overrides and isolates: by them "gnp.exe" is shown as "exe.png" (https://trojansource.codes).
_DIRECTIONS = "\u202a-\u202e\u2066-\u2069"
# Halves of UTF-16 pairs: how Python holds a file name that is no UTF-8.
_SURROGATES = "\ud800-\udfff"

_NO_TEXT = f"[\t\n{_CONTROLS}{_NONCHARACTERS}]"
_NOT_SHOWN = re.compile(f"[{_CONTROLS}{_NONCHARACTERS}{_DIRECTIONS}{_SURROGATES}]")
_CONTROL_PICTURES = 0x2400
_DELETE, _PICTURE_OF_DELETE = "\x7f", "\u2421"
_REPLACEMENT = "\ufffd"

# What spreadsheets take for the beginning of a formula (OWASP, "CSV Injection"), but for plain numbers.
_FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def visible(text: str) -> str:
    """The text with a sign in the place of each character that a terminal obeys or a chart cannot draw.

    Tabs and line feeds stay; ESC becomes ␛, so that what was meant to be hidden is seen.
    """
    return _NOT_SHOWN.sub(lambda found: _sign(found[0]), text)


def _sign(character: str) -> str:
    if character < " ":
        return chr(_CONTROL_PICTURES + ord(character))
    return _PICTURE_OF_DELETE if character == _DELETE else _REPLACEMENT


def holds_controls(text: pl.Expr) -> pl.Expr:
    """Where a text holds controls, tabs, line ends or noncharacters; False where there is no text."""
    return text.str.contains(_NO_TEXT).fill_null(False)


def without_controls(text: pl.Expr) -> pl.Expr:
    """The text with a space in their place; none at either end."""
    return text.str.replace_all(f"{_NO_TEXT}+", " ").str.strip_chars()


def without_formulas(text: pl.Expr) -> pl.Expr:
    """The text with an apostrophe before what a spreadsheet would compute; a plain number, such as -1.5, stays one."""
    is_plain = ~text.str.contains(_FORMULA) | text.str.contains(_NUMBER)
    return pl.when(is_plain).then(text).otherwise("'" + text)
