"""The one pattern by which a user id is found as a whole word: in the text of rejected rows, and in the bytes of files.

Withholding rows belongs in `leaving_out`, searching files in `home.searching`. Both must agree: an id that is found and
not withheld can never be erased.
"""

import html
import json
import re
from collections.abc import Collection, Iterable
from urllib.parse import quote

import polars as pl

# ASCII, because bytes are searched before their encoding is known.
_LETTER, _JOINER = "[0-9A-Za-z_]", "[-.@+]"
# A joiner is part of a word only between letters: `anna-maria` does not name anna, but "anna." does.
_BEFORE, _AFTER = f"(?<!{_LETTER})(?<!{_LETTER}{_JOINER})", f"(?!{_LETTER}|{_JOINER}{_LETTER})"
# The same without lookarounds, which Polars does not have.
_FROM = f"(?:^|[^0-9A-Za-z_.@+-]|(?:^|[^0-9A-Za-z_]){_JOINER})"
_TO = f"(?:$|[^0-9A-Za-z_.@+-]|{_JOINER}(?:$|[^0-9A-Za-z_]))"
_WORD = f"{_LETTER}+(?:{_JOINER}{_LETTER}+)*"
_NUMBER = re.compile(r"-?\d+")
# Between two neighbours of a word, whole or cut.
NEIGHBOURS = 2
# Regular expressions of Polars have a largest size, which some 10,000 ids exceed.
_IDS_PER_PATTERN = 500
# pandas writes 7 as 7.0 if an id of the column is missing; the reader takes both as 7.
_DECIMALS = r"\.0+"


def spellings(user_id: str) -> set[str]:
    """The id as texts write it: as it is, in JSON, in HTML, and in the names of folders."""
    return {user_id, json.dumps(user_id)[1:-1], html.escape(user_id), quote(user_id, safe="", errors="replace")}


def names_one(text: pl.Expr, user_ids: Collection[str]) -> pl.Expr:
    """Whether a text contains one of the ids as a whole word.

    Args:
        text: column of text.
        user_ids: at least one id.
    """
    texts = {spelling for user_id in user_ids for spelling in spellings(user_id)}
    words = {each for each in texts if re.fullmatch(_WORD, each)}
    # Tokens are compared at once, because an alternative of thousands of ids would be too large a pattern.
    tokens = text.str.extract_all(_WORD).list.eval(
        pl.element().str.replace(rf"^(\d+){_DECIMALS}$", "$1").is_in(sorted(words)) | pl.element().is_in(sorted(words))
    )
    others = [pl.escape_regex(each) + _decimals(each, "utf-8").decode() for each in sorted(texts - words)]
    parts = ("|".join(others[at : at + _IDS_PER_PATTERN]) for at in range(0, len(others), _IDS_PER_PATTERN))
    return pl.any_horizontal(tokens.list.any(), *(text.str.contains(f"{_FROM}(?:{part}){_TO}") for part in parts))


def in_bytes(words: Iterable[tuple[bytes, str]]) -> re.Pattern[bytes]:
    """The pattern of whole words in bytes.

    Args:
        words: each spelling with its encoding, the longest first.
    """
    each = b"|".join(re.escape(word) + _decimals(word.decode(encoding), encoding) for word, encoding in words)
    return re.compile(_BEFORE.encode() + b"(?:" + each + b")" + _AFTER.encode())


def _decimals(word: str, encoding: str) -> bytes:
    """The pattern of the decimals that a whole number may have."""
    if not _NUMBER.fullmatch(word):
        return b""
    return b"(?:" + re.escape(".".encode(encoding)) + b"(?:" + re.escape("0".encode(encoding)) + b")+)?"
