"""Words for people: sentences about ratings of items become sentences about plays of songs, or ratings of movies.

Sentences are written once, for ratings and items. Names of tables, columns and settings say `rating` and `item` in
every home.
"""

import re
from collections.abc import Iterable

_ARTICLE_LAST = re.compile(r"^(.+), (The|A|An|Le|La|Les|Il|El|Los|Las|Der|Die|Das|Un|Une)$")

RATINGS = "ratings"
EVENTS = "events"
ITEMS = "items"
# "Picked" is right for whatever people do with items.
_VERBS = {"rated": "picked", "rates": "picks"}
_WORD = re.compile(r"(?<![\w`\[.])(ratings|rating|rated|rates|items|item)(?![\w`=])", re.IGNORECASE)


def worded(text: str, noun: str, *, items: str = ITEMS) -> str:
    """Write a sentence about ratings of items with the words of a catalogue.

    Args:
        text: the sentence.
        noun: name of the feedback, in the plural: `ratings`, or the name of the events.
        items: name of the items, in the plural.

    Examples:
        >>> worded("Ratings per user: all that the user has rated", "plays")
        'Plays per user: all that the user has picked'
        >>> worded("the latest rating", "purchases")
        'the latest purchase'
        >>> worded("Items that the user has rated", "ratings", items="movies")
        'Movies that the user has rated'
    """
    words = {"items": items, "item": items.removesuffix("s")}
    if noun != RATINGS:
        words |= {"ratings": noun, "rating": noun.removesuffix("s"), **_VERBS}

    def replaced(found: re.Match[str]) -> str:
        word = words.get(found[0].lower(), found[0])
        return word[0].upper() + word[1:] if found[0][0].isupper() else word

    return _WORD.sub(replaced, text)


def worded_page(page: str, noun: str, *, items: str = ITEMS, kept: Iterable[str] = ()) -> str:
    """Write the text of an HTML page as `worded` does; tags, scripts, styles and the settings stay as they are.

    Args:
        page: the page.
        noun: see `worded`.
        items: see `worded`.
        kept: texts of the page that stay as they are, escaped as in the page, such as titles of items.
    """
    if (noun, items) == (RATINGS, ITEMS):
        return page
    names = sorted({text for text in kept if _WORD.search(text)}, key=len, reverse=True)
    own = [r"<script.*?</script>", r"<style.*?</style>", r'<section id="settings">.*?</section>', r"<code>.*?</code>"]
    stays = re.compile("(" + "|".join([*own, r"<[^<>]*>", *map(re.escape, names)]) + ")", re.DOTALL)
    parts = stays.split(page)
    # Every second part is one that stays.
    return "".join(part if place % 2 else worded(part, noun, items=items) for place, part in enumerate(parts))


def article_first(title: str) -> str:
    """The title with its article in front, as people say it: MovieLens writes "Fugitive, The".

    Example:
        >>> article_first("Fugitive, The")
        'The Fugitive'
    """
    return _ARTICLE_LAST.sub(r"\2 \1", title)
