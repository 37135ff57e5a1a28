"""Words for feedback: sentences about ratings become sentences about plays, purchases or other events.

Sentences are written once, for ratings. Names of tables, columns and settings say `rating` in every home.
"""

import re
from collections.abc import Iterable

RATINGS = "ratings"
EVENTS = "events"
# "Picked" is right for whatever people do with items.
_VERBS = {"rated": "picked", "rates": "picks"}
_WORD = re.compile(r"(?<![\w`\[.])(ratings|rating|rated|rates)(?![\w`=])", re.IGNORECASE)


def worded(text: str, noun: str) -> str:
    """Write a sentence about ratings as one about events.

    Args:
        text: the sentence.
        noun: name of the events, in the plural; `ratings` leaves the text as it is.

    Examples:
        >>> worded("Ratings per user: all that the user has rated", "plays")
        'Plays per user: all that the user has picked'
        >>> worded("the latest rating", "purchases")
        'the latest purchase'
    """
    if noun == RATINGS:
        return text
    words = {"ratings": noun, "rating": noun.removesuffix("s"), **_VERBS}

    def replaced(found: re.Match[str]) -> str:
        word = words[found[0].lower()]
        return word[0].upper() + word[1:] if found[0][0].isupper() else word

    return _WORD.sub(replaced, text)


def worded_page(page: str, noun: str, *, kept: Iterable[str] = ()) -> str:
    """Write the text of an HTML page as `worded` does; tags, scripts, styles and the settings stay as they are.

    Args:
        page: the page.
        noun: see `worded`.
        kept: texts of the page that stay as they are, escaped as in the page, such as titles of items.
    """
    if noun == RATINGS:
        return page
    names = sorted({text for text in kept if _WORD.search(text)}, key=len, reverse=True)
    own = [r"<script.*?</script>", r"<style.*?</style>", r'<section id="settings">.*?</section>', r"<code>.*?</code>"]
    stays = re.compile("(" + "|".join([*own, r"<[^<>]*>", *map(re.escape, names)]) + ")", re.DOTALL)
    parts = stays.split(page)
    # Every second part is one that stays.
    return "".join(part if place % 2 else worded(part, noun) for place, part in enumerate(parts))
