"""Joins many small CSV files of one layout into one, because each scan by Polars costs milliseconds.

Reading the joined file belongs in `plain`.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import IO

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.detect import DELIMITED
from recsys_assets.recommender.ingest.sheets import Sheet
from recsys_assets.recommender.ingest.text import Text, utf8_text
from recsys_assets.recommender.ingest.validation import Rules

_MANY = 16


def joined(source: Source, files: Sequence[Sheet], rules: Rules) -> tuple[Source, Sheet] | None:
    """The rows of all files in their order as one file; None for few files, or for files of several layouts.

    Args:
        source: the source of the files.
        files: the files.
        rules: format options of the source.
    """
    first = files[0]
    is_alike = all(replace(file, content=first.content) == first for file in files)
    if len(files) < _MANY or not is_alike or first.content.kind != DELIMITED:
        return None
    texts = [utf8_text(source, file.name, rules.encoding) for file in files]
    if any(text.has_quotes or text.has_spaces or text.has_returns for text in texts):
        return None
    kind = f"joined-{[str(text.path) for text in texts]}"
    path = source.derived(first.name, kind, lambda out: _write(texts, first.header_lines, out))
    return Source(path, source.scratch), replace(first, content=replace(first.content, name=path.name))


def _write(texts: Sequence[Text], header_lines: int, out: IO[bytes]) -> None:
    for place, text in enumerate(texts):
        with text.path.open("rb") as lines:
            header = b"".join(lines.readline() for _ in range(header_lines))
            if not place:
                out.write(header)
            shutil.copyfileobj(lines, out)
            size = lines.tell()
            if size > len(header):
                lines.seek(size - 1)
                if lines.read(1) != b"\n":
                    out.write(b"\n")
