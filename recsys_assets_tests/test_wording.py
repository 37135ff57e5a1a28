"""The words for feedback in a home of events."""

import json

from recsys_assets.cli.reader import Reader
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.wording import worded, worded_page


def test_a_home_of_events_speaks_of_them_by_their_name(tmp_path):
    """Who brings plays would read about ratings that nobody gave."""
    home = Home(tmp_path)
    said = "User 7 has rated all 40 items; no rating is left."
    assert Reader(home).words(said) == said
    home.kind.write_text(json.dumps(DataKind(feedback="events").content))
    assert Reader(home).words(said) == "User 7 has picked all 40 items; no event is left."
    home.settings_file.write_text('[data]\nevent_noun = "plays"\n')
    assert Reader(home).words(said) == "User 7 has picked all 40 items; no play is left."
    home.settings_file.write_text('[data]\nevent_noun = "plays"\nitem_noun = "songs"\n')
    assert Reader(home).words(said) == "User 7 has picked all 40 songs; no play is left."
    data = Settings.load(home).data
    assert data.feedback_noun(DataKind()) == "ratings" and data.feedback_noun(DataKind(feedback="events")) == "plays"


def test_names_and_titles_keep_their_words():
    """A setting could not be found under the name that the report shows, or a film have another title."""
    assert worded("not_rated, `rating` and ratings.csv", "plays").startswith("not_rated, `rating` and ")
    page = (
        '<p class="rating">Ratings per user</p><td>X-Rated Movie</td><code>rating</code>'
        '<script>var ratings = 1</script><section id="settings">ignore = rating</section><p>who rated</p>'
    )
    told = worded_page(page, "plays", kept=["X-Rated Movie", "Plain"])
    assert told == page.replace("Ratings per user", "Plays per user").replace("who rated", "who picked")
    assert worded_page(page, "ratings") == page
