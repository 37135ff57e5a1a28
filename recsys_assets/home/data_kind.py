"""The kind of a home's data: detected from the first batch, and stored until no batch is left.

The kinds are in `recommender.data.kind`.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from recsys_assets.home.layout import Home, HomeError
from recsys_assets.home.unfinished import write_atomically
from recsys_assets.home.versions import AssetStore
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind, Feedback
from recsys_assets.recommender.ingest.errors import SourceError
from recsys_assets.recommender.ingest.settings import DataSettings
from recsys_assets.recommender.ingest.sources import read_source

_OTHER_FEEDBACK: Mapping[Feedback, str] = {
    "ratings": "it holds ratings, and this home holds events. To read its ratings as events, set "
    'ignore = ["rating"] under [data] in {settings}; or add it to another home (--home).',
    "events": "it holds events without ratings, and this home holds ratings. Name its column of ratings under "
    "[data.columns] in {settings}, or add it to another home (--home).",
}
# The raw table that is stored first. It exists only for accepted batches.
_FIRST_TABLE = ["rejected_rows"]


def data_kind(home: Home, data: DataSettings) -> DataKind:
    """Return the kind of a home; ratings with times before the first batch."""
    return known_kind(home, data) or RATINGS_WITH_TIMES


def known_kind(home: Home, data: DataSettings) -> DataKind | None:
    """Return the stored kind of a home that has read a batch, else the kind of the first readable landed batch.

    None without a readable landed batch.

    Raises:
        HomeError: the stored kind cannot be read.
    """
    if AssetStore(home.assets).batches(_FIRST_TABLE):
        return kept_kind(home)
    with tempfile.TemporaryDirectory() as scratch:
        for name in home.landed_batches():
            try:
                kind = read_source(home.batch(name), scratch=Path(scratch), **data.reading).kind
            except (SourceError, OSError):
                # The run that reads this batch reports the error, such as a missing permission.
                continue
            if kind is not None:
                return kind
    return None


def keep_kind(home: Home, kind: DataKind | None) -> None:
    """Write the kind of the first accepted batch; later ones have the same. A batch of items alone has none."""
    if kind is None:
        return
    if not home.kind.exists() or not AssetStore(home.assets).batches(_FIRST_TABLE):
        write_atomically(home.kind, (json.dumps(kind.content) + "\n").encode())


def check_kind(kind: DataKind | None, home: Home, known: DataKind | None) -> None:
    """Refuse a source of another kind than the home.

    Args:
        kind: kind of the source; None for items alone, which suit every home.
        home: the home, for the message.
        known: kind of the home; None allows every kind.

    Raises:
        SourceError: the kinds differ; the message says what to do.
    """
    if kind is None or known is None or kind == known:
        return
    if kind.feedback != known.feedback:
        raise SourceError(_OTHER_FEEDBACK[kind.feedback].format(settings=home.settings_file))
    if kind.times:
        raise SourceError(
            "its ratings have times, and the ratings of this home have none. To read it without times, set "
            f'ignore = ["timestamp"] under [data] in {home.settings_file}; or add it to another home (--home).'
        )
    raise SourceError(
        "its ratings have no times, and the ratings of this home have times. Give it a column timestamp, or add it to "
        "another home (--home)."
    )


def kept_kind(home: Home) -> DataKind:
    """Return the stored kind of a home; ratings with times if none is stored, as before version 0.7.

    Raises:
        HomeError: the stored kind cannot be read.
    """
    if not home.kind.exists():
        return RATINGS_WITH_TIMES
    try:
        return DataKind.from_dict(json.loads(home.kind.read_text()))
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise HomeError(
            f"{home.kind}: {error}. Write what the data are: {json.dumps(RATINGS_WITH_TIMES.content)}, or false "
            'without times, or "events".'
        ) from None
