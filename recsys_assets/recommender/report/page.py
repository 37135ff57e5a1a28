"""The evaluation report: one HTML file that opens offline.

This module assembles the page. Texts belong in `verdicts`, `summary` and `score_tables`, charts in `charts`.
"""

import logging
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import sha256
from html import escape
from importlib.resources import files

import narwhals as nw
import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recsys_assets.recommender.data.characters import visible
from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.data.kind import RATINGS_WITH_TIMES, DataKind
from recsys_assets.recommender.data.wording import RATINGS, worded_page
from recsys_assets.recommender.report import charts, labels, study_charts
from recsys_assets.recommender.report.case_studies import CaseStudies
from recsys_assets.recommender.report.published import PUBLISHED, Published
from recsys_assets.recommender.report.score_tables import ScoreTable, score_tables
from recsys_assets.recommender.report.segment_cards import Card, largest, segment_cards
from recsys_assets.recommender.report.standings import NOTHING_SELECTED, Selected, Standings, contests
from recsys_assets.recommender.report.study_section import StudySection, StudyTables
from recsys_assets.recommender.report.summary import DataSummary, data_summary
from recsys_assets.recommender.report.theme import Spec
from recsys_assets.recommender.report.verdicts import Served, next_steps, verdicts

# More cards make the page long and large; the page shows the largest segments.
MAX_CARDS = 60
# Smaller segments depend on single users.
_SMALLEST_SHARE = 0.01

_LOGGER = logging.getLogger(__name__)

_PACKAGE = "recsys_assets.recommender.report"
_TEMPLATE = "template.html.j2"
_SCRIPT = files(_PACKAGE).joinpath("report.js").read_text()
_SVG_IDS = re.compile(r'\bid="([^"]+)"')
# A screen reader would read out every mark of a picture as an image without a name.
_ROLES = re.compile(r' (?:role="graphics-[a-z]+"|aria-(?:roledescription|label)="[^"]*")')
_NAMESPACES = re.compile(r' xmlns(?::xlink)?="[^"]*"')


@dataclass(frozen=True)
class ReportInputs:
    """The contents of the report. Fields with the name of a table hold that table, which may be empty.

    Attributes:
        evaluation_scores: the tidy scores.
        settings: settings of the run; mappings may be nested.
        versions: version by library.
        generated: time at which the report was made.
        title: heading of the page.
        study: the tables of a study; None without a study.
        served: the ranking model behind the recommendations; None before the first promotion.
        selected: the selected model of each task.
        is_movielens: whether the data are MovieLens, so that the case studies' results stand beside the scores.
        item_noun: name of the items for people, in the plural, such as movies.
        feedback_noun: name of the feedback for people, in the plural: ratings, or plays.
        kind: kind of the data.
        segment_ratings: the table with this name; None for events.
    """

    ratings: nw.LazyFrame
    users: nw.LazyFrame
    items: nw.LazyFrame
    rejected_rows: nw.LazyFrame
    user_features: nw.LazyFrame
    cluster_sweep: nw.LazyFrame
    user_clusters: nw.LazyFrame
    segment_items: nw.LazyFrame
    user_segments: nw.LazyFrame
    segment_shares: nw.LazyFrame
    evaluation_scores: nw.LazyFrame | pl.DataFrame
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    generated: datetime
    title: str = "Recommender report"
    study: StudyTables | None = None
    served: Served | None = None
    selected: Selected = field(default_factory=lambda: NOTHING_SELECTED)
    is_movielens: bool = False
    item_noun: str = "items"
    feedback_noun: str = RATINGS
    kind: DataKind = RATINGS_WITH_TIMES
    segment_ratings: nw.LazyFrame | None = None


Warn = Callable[[str], None]
# Makes a chart, or returns None if there is nothing to show.
Draw = Callable[[], Spec | None]


def render_page(inputs: ReportInputs, *, warn: Warn = _LOGGER.warning) -> str:
    """The report as one HTML document with inline styles and charts; it loads no other file.

    Args:
        inputs: the tables, scores, settings and versions to show.
        warn: called for each chart that cannot be rendered; the page shows a message in its place.
    """
    scores = to_polars(nw.from_native(inputs.evaluation_scores).lazy())
    data = data_summary(inputs.ratings, inputs.users, inputs.items, inputs.rejected_rows, inputs.kind)
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(_TEMPLATE).render(
        title=inputs.title,
        generated=f"{inputs.generated:%Y-%m-%d %H:%M %Z}".strip(),
        labels=labels,
        kind=inputs.kind,
        data=data,
        verdicts=verdicts(
            scores, inputs.served, inputs.kind, selected=inputs.selected, has_attributes=data.has_demographics
        ),
        next_steps=next_steps(scores, inputs.served, studied=inputs.study is not None),
        notice=" ".join(labels.notices(scores, inputs.kind)),
        standings=_standings(scores),
        protocols=_protocols(scores, PUBLISHED if inputs.is_movielens else (), inputs.selected, inputs.kind, warn),
        published=_published(data) if inputs.is_movielens else [],
        case_studies=CaseStudies(scores).statements() if inputs.is_movielens else [],
        script=Markup(_SCRIPT),
        script_hash=b64encode(sha256(_SCRIPT.encode()).digest()).decode(),
        study=StudySection(inputs.study) if inputs.study else None,
        study_pictures=list(_figures(_study_pictures(inputs.study), warn).values()) if inputs.study else [],
        pictures=_figures(_pictures(inputs), warn),
        cards=largest(_cards(inputs), MAX_CARDS),
        settings=list(_groups(inputs.settings)),
        versions=dict(sorted(inputs.versions.items(), key=lambda item: item[0].lower())),
    )
    titles = to_polars(inputs.items, "title")["title"].drop_nulls()
    kept = [str(Markup.escape(text)) for text in (*titles, inputs.kind.notice)]
    # A direction mark in a title would reverse the text around the title.
    return visible(worded_page(page, inputs.feedback_noun, items=inputs.item_noun, kept=kept))


def figure(chart: Spec, name: str, *, titled: bool = True) -> Markup:
    """The chart as inline SVG, with its title as description and ids that are unique on the page.

    Args:
        chart: any finished chart.
        name: prefix of the ids, unique on the page.
        titled: False if the page already shows the title.
    """
    title = escape(chart["title"]["text"])
    shown = chart if titled else {name: part for name, part in chart.items() if name != "title"}
    svg = _with_own_ids(_NAMESPACES.sub("", _ROLES.sub("", charts.to_svg(shown))), name)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1))


def _figures(drawn: Mapping[str, Draw], warn: Warn, *, titled: bool = True) -> dict[str, Markup]:
    """The charts by name, without empty ones; a sentence replaces a chart that cannot be rendered."""
    figures = {}
    for name, draw in drawn.items():
        try:
            if chart := draw():
                figures[name] = figure(chart, name, titled=titled)
        except Exception as error:
            told = f"No picture '{name}': {type(error).__name__}: {error}"
            warn(told)
            figures[name] = Markup("<p>{}</p>").format(told)
    return figures


def _with_own_ids(svg: str, name: str) -> str:
    """The SVG with its ids renumbered under `name`, because Vega's ids depend on the charts rendered before."""
    own = {found: f"{name}-{place}" for place, found in enumerate(dict.fromkeys(_SVG_IDS.findall(svg)))}
    references = re.compile(r'(\bid="|url\(#|href="#)(' + "|".join(map(re.escape, own)) + r')(?=["\)])')
    return references.sub(lambda found: found[1] + own[found[2]], svg) if own else svg


def _published(data: DataSummary) -> list[tuple[Published, bool]]:
    """The published values, each with whether this data are the data of its study."""
    return [(each, each.study.is_about(data.users, data.ratings)) for each in PUBLISHED]


def _standings(scores: pl.DataFrame) -> dict[str, list[list[Standings]]]:
    """The standings by question, a list per metric: `main` for the whole populations, `groups` for groups of users."""
    found: dict[str, dict[tuple[str, str], list[Standings]]] = {"main": {}, "groups": {}}
    for each in contests(scores):
        part = "main" if each.population in labels.POPULATIONS else "groups"
        found[part].setdefault((each.protocol, each.metric), []).append(each)
    return {part: list(questions.values()) for part, questions in found.items()}


def _protocols(
    scores: pl.DataFrame, published: Sequence[Published], selected: Selected, kind: DataKind, warn: Warn
) -> list[dict[str, object]]:
    """Each protocol with its tables and charts."""
    return [
        {
            "name": name,
            "facts": labels.protocol(name, kind),
            "tables": [
                (table, _score_figure(scores, table, kind, warn))
                for table in score_tables(scores, name, published, selected)
            ],
        }
        for name in labels.ordered(scores["protocol"], labels.PROTOCOL_LABELS)
    ]


def _score_figure(scores: pl.DataFrame, table: ScoreTable, kind: DataKind, warn: Warn) -> Markup | None:
    if not table.facts.is_drawn:
        return None
    name = f"{table.protocol}-{table.metric}"
    draw = partial(charts.scores, scores, table.protocol, table.metric, kind)
    return _figures({name: draw}, warn, titled=False)[name]


def _pictures(inputs: ReportInputs) -> dict[str, Draw]:
    k = int(to_polars(inputs.user_clusters.select(nw.col("cluster").n_unique().alias("k")))["k"][0])
    drawn: dict[str, Draw] = {
        "ratings_per_user": partial(charts.ratings_per_user, inputs.ratings),
        "cluster_sweep": partial(charts.cluster_sweep, inputs.cluster_sweep, k),
        "cluster_pairs": partial(charts.cluster_pairs, inputs.user_features, inputs.user_clusters),
        "cluster_profiles": partial(charts.cluster_profiles, inputs.users, inputs.user_clusters),
        "users_per_segment": partial(charts.users_per_segment, inputs.user_segments),
        "segment_shares": partial(charts.segment_shares, inputs.segment_shares),
        "segment_sweep": partial(_segment_sweep, inputs),
        "example_affinities": partial(charts.example_affinities, inputs.user_segments, inputs.users),
    }
    if inputs.segment_ratings is not None:
        drawn["rating_by_segment"] = partial(charts.rating_by_segment, inputs.segment_ratings, inputs.items)
    if inputs.study:
        drawn["cold_error"] = partial(charts.cold_error, inputs.study.trials, inputs.cluster_sweep, k)
    return drawn


def _cards(inputs: ReportInputs) -> list[Card]:
    """The cards of all segments that hold enough users."""
    cards = segment_cards(inputs.segment_items, inputs.user_segments, inputs.users)
    return [card for card in cards if card.share >= _SMALLEST_SHARE]


def _segment_sweep(inputs: ReportInputs) -> Spec | None:
    n_segments = to_polars(inputs.user_segments.select("affinity").head(1))["affinity"].list.len()
    return study_charts.segment_sweep(inputs.study.sweep, n_segments[0]) if inputs.study and len(n_segments) else None


def _study_pictures(study: StudyTables) -> dict[str, Draw]:
    return {
        "cold-to-warm": partial(study_charts.cold_to_warm, study.scores),
        "optimism": partial(study_charts.optimism, study.scores),
        "optimism-of-rankings": partial(study_charts.optimism, study.scores, study_charts.AUDIT_OF_RANKINGS),
    }


def _groups(settings: Mapping[str, object]) -> Iterator[tuple[str, dict[str, str]]]:
    """Heading and entries of each group of settings: plain settings first, then each mapping with dotted names."""
    plain = {name: _shown(value) for name, value in settings.items() if not isinstance(value, Mapping)}
    if plain:
        yield "general", plain
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield name, dict(_flat(value))


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _shown(value)


def _shown(value: object) -> str:
    """A setting as in settings.toml, without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return "not set" if value is None else str(value)
