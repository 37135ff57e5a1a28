"""The files of a source that no table comes from, such as the tags of MovieLens. Only a search for users reads them."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import polars as pl

from recsys_assets.recommender.ingest.archives import Source
from recsys_assets.recommender.ingest.detect import Content, is_document
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.names import of_ratings
from recsys_assets.recommender.ingest.sheets import Sheet, sheet, sheet_rows
from recsys_assets.recommender.ingest.text import PROBLEM, TEXT
from recsys_assets.recommender.ingest.validation import Rules, identifier


def unread_files(
    source: Source, contents: Sequence[Content], read: Collection[str], rules: Rules
) -> Iterator[pl.LazyFrame | Path]:
    """The unread files of a source, hidden ones too, without documents such as a README.

    Args:
        source: the source.
        contents: its files that are neither hidden nor documents.
        read: names of the files that tables come from.
        rules: format options of the source.

    Yields:
        The column `user_id` and, for rows that cannot be read, `text`; or the path of an unpacked file whose columns
        are not known. Files without a column of users are left out.
    """
    by_name = {item.name: item for item in contents}
    for name in source.all_names:
        if name in read or is_document(name):
            continue
        file = _sheet(source, by_name.get(name), rules)
        if file is None or file.has_values_as_names:
            yield source.file(name)
            continue
        found = of_ratings((*file.columns, *file.folders), rules.columns)
        meant = (found.mapping["user_id"],) if "user_id" in found.mapping else found.doubts.get("user_id", ())
        for own in meant:
            rows = sheet_rows(source, file, rules, [own])
            unreadable = pl.when(pl.col(PROBLEM).is_not_null()).then(pl.col(TEXT))
            yield rows.select(identifier(own, rows.collect_schema()[own]).alias("user_id"), unreadable.alias("text"))


def _sheet(source: Source, item: Content | None, rules: Rules) -> Sheet | None:
    """The file with its columns; None if they are not known."""
    if item is None or not item.is_readable:
        return None
    try:
        return sheet(source, item, rules)
    except SourceError:
        # A reader may pass over a file that is damaged, or whose columns are in doubt.
        return None
