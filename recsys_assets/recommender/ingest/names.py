"""Finds the standard columns of a file by the names that public data sets give to them.

Names are compared without case, spaces and punctuation, and without the types that RecBole appends (`user_id:token`).
Which role the columns give a file, and reading its rows, belongs in `sheets`.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
ITEM_COLUMNS = ("title", "year", "genres")
EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "event", "weight")
STANDARD_COLUMNS = (*RATING_COLUMNS, *EVENT_COLUMNS[3:], *ITEM_COLUMNS)
# Column names of the CSV releases of MovieLens, and of files that were written for versions before 0.7.
_ALIASES = {"user_id": ("userId",), "item_id": ("movie_id", "movieId")}
_RECBOLE_TYPE = re.compile(r":(token|float)(_seq)?$")

# Names that mean one thing in every file, by rank: a name of a later rank counts only without one of an earlier rank.
# Two names of one rank in one file are a doubt that only a person can settle.
_PLAIN: Mapping[str, tuple[str, ...]] = {
    "user_id": ("userid", "reviewerid customerid memberid accountid visitorid reviewuserid uid"),
    "item_id": (
        "itemid movieid",
        # Amazon: variants of a product share their parent's ratings and metadata.
        "parentasin",
        "asin productid productproductid bookid businessid animeid gameid appid songid trackid artistid contentid "
        "articleid newsid videoid jokeid recipeid beerid beerbeerid restaurantid courseid filmid iid",
        "isbn",
    ),
    "rating": (
        "rating",
        # BeerAdvocate rates aroma, appearance, palate and taste beside the whole.
        "overall reviewoverall bookrating userrating reviewscore myscore ratingvalue",
        "stars score",
        "ratings preference",
    ),
    "timestamp": (
        "timestamp",
        # Amazon writes the same time twice; `reviewTime` is for people.
        "unixreviewtime unixtime",
        "ratingtimestamp ratingtime reviewtime reviewcreationtimestamp",
        "ratingdate reviewdate ratedat ratedon",
        "time date datetime createdat creationdate",
        # Goodreads has the day on which a book was put on a shelf beside the days of reading it.
        "dateadded",
        "ts",
    ),
    "title": ("title", "itemtitle", "movietitle", "booktitle", "producttitle", "itemname", "productname", "name"),
    "year": ("year", "releaseyear", "yearofpublication", "publicationyear", "originalpublicationyear"),
    "genres": ("genres", "genre", "categories", "category", "class"),
}
# Nouns that mean an id beside ratings only; elsewhere they can be attributes, such as the favourite game of a user.
_BESIDE_RATINGS: Mapping[str, tuple[str, ...]] = {
    "user_id": ("user", "username", "profilename reviewprofilename customer member reviewer"),
    "item_id": ("item movie film product book anime game song track artist beer",),
}


@dataclass(frozen=True)
class Named:
    """The standard columns of a file.

    Attributes:
        mapping: original column name by standard name.
        doubts: the original names that may be meant, by standard name, where several may.
    """

    mapping: Mapping[str, str]
    doubts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def without(self, ignored: Collection[str]) -> "Named":
        """The columns without some standard columns."""
        mapping = {name: own for name, own in self.mapping.items() if name not in ignored}
        return Named(mapping, {name: own for name, own in self.doubts.items() if name not in ignored})


def named(columns: Sequence[str], own: Mapping[str, str], role: Callable[[Collection[str]], str | None]) -> Named:
    """Finds the standard columns by their names.

    A name in the settings comes first, then the standard name and MovieLens's, then the known names.

    Args:
        columns: original column names.
        own: original name by standard name, from the settings.
        role: returns the role of a file with these standard columns.
    """
    exact = Named({name: found for name in STANDARD_COLUMNS if (found := _exact(name, columns, own))})
    plain = _with_known(exact, columns, _PLAIN)
    beside_ratings = _with_known(plain, columns, _BESIDE_RATINGS)
    names = beside_ratings.mapping.keys() | beside_ratings.doubts.keys()
    # Without times, `user_id,game,rating` may be a user with two attributes; `user,game,rating` is a rating.
    is_one_kind = "timestamp" in names or "user_id" not in plain.mapping or "item_id" in plain.mapping
    if role(names) == "ratings" and is_one_kind:
        return beside_ratings
    return exact if role(exact.mapping.keys()) else plain


def of_ratings(columns: Sequence[str], own: Mapping[str, str]) -> Named:
    """The standard columns if the file holds ratings, for messages about a file without a known role."""
    return named(columns, own, lambda _: "ratings")


def _exact(name: str, columns: Sequence[str], own: Mapping[str, str]) -> str | None:
    if (named_by_user := own.get(name)) and named_by_user in columns:
        return named_by_user
    # A column `rating` that the settings name as the weight is no rating. One column may be the id and the title.
    taken = [] if name in ITEM_COLUMNS else [column for standard, column in own.items() if standard not in ITEM_COLUMNS]
    candidates = (name, *_ALIASES.get(name, ()))
    return next((candidate for candidate in candidates if candidate in columns and candidate not in taken), None)


def _with_known(found: Named, columns: Sequence[str], known: Mapping[str, tuple[str, ...]]) -> Named:
    """The columns found so far, with the known names of those that are missing."""
    taken = set(found.mapping.values())
    keys = {column: "" if column in taken else _key(column) for column in columns}
    mapping, doubts = dict(found.mapping), dict(found.doubts)
    for name, ranks in known.items():
        if name in mapping or name in doubts:
            continue
        present = ([column for column in columns if keys[column] in rank.split()] for rank in ranks)
        meant = list(dict.fromkeys(next(filter(None, present), [])))
        if len(meant) == 1:
            mapping[name] = meant[0]
        elif meant:
            doubts[name] = tuple(meant)
    return Named(mapping, doubts)


def _key(column: str) -> str:
    return re.sub(r"[\W_]+", "", _RECBOLE_TYPE.sub("", column.strip().casefold()))
