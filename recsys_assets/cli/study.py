"""The command `study`: tunes settings on validation splits and compares every model under every protocol.

The study itself is in `recommender.tuning`, its assets in `orchestration.assets.study`.
"""

from collections.abc import Sequence
from typing import Annotated

import typer

from recsys_assets.cli.run import launch, locked
from recsys_assets.cli.terminal import CommandError, HomeOption, console, follow_up, nearest
from recsys_assets.home.data_kind import kept_kind
from recsys_assets.home.layout import Home
from recsys_assets.home.settings import require_java
from recsys_assets.home.versions import AssetStore, scan
from recsys_assets.recommender.data.frames import row_count

_NEEDED = ("ratings", "users", "items", "user_features")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="The pipeline")(study)


def study(
    searches: Annotated[
        list[str] | None, typer.Option(help="Only these searches; for the others, earlier trials decide.")
    ] = None,
    protocols: Annotated[list[str] | None, typer.Option(help="Only under these protocols.")] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Candidates per search.", show_default="[study] budget of the settings")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Choose settings and models on validation splits, and score all models under all protocols.

    The chosen settings are written to `tuned.toml` in the home, and the next `run` trains with them. Your own
    settings.toml takes precedence. Every trial is stored as soon as it is finished: you may stop the command at any
    time, and the same command continues from there. Separate several values by commas, or repeat the option.

    Examples: `recsys-assets study`, `recsys-assets study --protocols time_cut,top_n --searches als --budget 20`
    """
    from recsys_assets.recommender.evaluation.protocols import FOLDS, exists_for
    from recsys_assets.recommender.tuning.searches import SEARCHES
    from recsys_assets.recommender.tuning.validation_splits import PROTOCOLS

    here, out = Home.resolve(home), console()
    require_java(here)
    wanted = _known("search", searches, [search.name for search in SEARCHES])
    kind = kept_kind(here)
    possible = [name for name in PROTOCOLS if exists_for(kind, name)]
    under = _known("protocol", protocols, possible) or possible
    store = AssetStore(here.assets)
    n_users = {row_count(scan(store.current([asset]))) for asset in _NEEDED if asset.startswith("user")}
    for asset in _NEEDED:
        store.current([asset])
    if len(n_users) > 1:
        raise CommandError(f"New users were ingested after the last refresh. Next: {follow_up('run', here)}")
    # If the data do not allow case study B, the pipeline has no scores and no report that could show the study.
    is_reported = store.has(["evaluation_scores"])
    with locked(here):
        from recsys_assets.orchestration.planning import study_of

        launch(here, out, study_of(under, wanted, budget, is_reported=is_reported, kind=kind))
    if kind.notice:
        out.print(kind.notice, style="yellow", soft_wrap=True)
    without = [name for name in under if not _has_rows(store, name)]
    reasons = {
        "The data have no published splits; ml-100k.zip has some.": [name for name in without if name in FOLDS],
        "The data have no test rows for this.": [name for name in without if name not in FOLDS],
    }
    for reason, names in reasons.items():
        if names:
            out.print(f"Not studied: {', '.join(names)}. {reason}")
    if len(without) == len(under):
        return
    out.print(f"Chosen: {here.tuned_file}", soft_wrap=True)
    out.print(f"Scores: {follow_up('scores --study', here)}", soft_wrap=True)
    if is_reported:
        out.print(f"Report: {here.report}", soft_wrap=True)
    out.print(f"Next: {follow_up('run', here)}", soft_wrap=True)


def _has_rows(store: AssetStore, protocol: str) -> bool:
    return row_count(scan(store.current(["study_scores"], protocol))) > 0


def _known(kind: str, given: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The given names in the order of the known ones.

    Raises:
        CommandError: a name is unknown.
    """
    names = [name.strip() for text in given or () for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            alike = nearest(name, known)
            raise CommandError(f"No {kind} {name!r}. {'Nearest' if alike else 'Known'}: {', '.join(alike or known)}.")
    return [name for name in known if name in names]
