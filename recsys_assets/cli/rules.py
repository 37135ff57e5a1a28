"""The command `rules`: the rules for lists, what they leave, and what limits and places for new items cost."""

from typing import TYPE_CHECKING

import typer
from rich.table import Table

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.terminal import HomeOption, console, facts, follow_up, table
from recsys_assets.home.blocking import rules_for_lists
from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy

if TYPE_CHECKING:
    from recsys_assets.recommender.serving.rule_cost import NewItemsScore, RuleCosts

_PANEL = "Data and settings"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel=_PANEL)(rules)


def rules(home: HomeOption = None) -> None:
    """Show the rules for lists, how many items they leave, and what `max_per_value` and `explore` cost.

    The cost is the NDCG of the served model's lists with and without the rule, for the same users and test ratings, by
    the models that were fitted on the training ratings. Items without a training rating are the new items of this
    test: a second table says how often lists show them, and how often users like what is shown. A rule can be tried
    before it is written down: an environment variable takes precedence over settings.toml.

    Examples: `RECSYS_SERVING__EXPLORE=1 recsys-assets rules`,
    `RECSYS_SERVING__MAX_PER_VALUE='{"genres": 3}' recsys-assets rules`
    """
    reader, out = Reader.of(home), console()
    serving = Settings.load(reader.home).serving
    present = rules_for_lists(reader.home, serving)
    items = reader.table("items").collect().sort("item")
    allowed = present.allowed(items)
    rules_told = {**present.told(lazy(reader.table("ratings"))), "explore": serving.explore or ""}
    told = {name: value for name, value in rules_told.items() if value not in ("", {})}
    shown = [*told.items(), ("items that may be shown", f"{allowed.sum():,} of {len(allowed):,}")]
    out.print(facts([(name, str(value)) for name, value in shown]))
    limits = present.limits(items)
    if limits is None and not serving.explore:
        out.print(f"Next: {follow_up('recommend --everybody', reader.home)}", style="dim", soft_wrap=True)
        return
    # Imported here, because the models take a second that rules without a cost do not need.
    from recsys_assets.cli.rule_costs import costs_of

    costs, is_served = costs_of(reader, n=serving.n, limits=limits, explore=serving.explore)
    if costs is None:
        out.print(reader.words("The cost of the rules is unknown: there is no liked test rating."), soft_wrap=True)
        return
    out.print()
    out.print(_costs(costs, reader))
    if costs.new_items:
        out.print()
        out.print(facts([(reader.words(name), value) for name, value in _of_new_items(costs.new_items)]))
    if not is_served:
        doubt = "These are lists of the models that were trained last. The served model may have other settings."
        out.print(doubt, soft_wrap=True)


def _costs(costs: "RuleCosts", reader: Reader) -> Table:
    """A row per rule."""
    numbers = ("without", "with", "change", "95 % interval", "shorter lists")
    listing = table(f"NDCG at {costs.n}", *numbers, numbers=numbers)
    for name, cost in costs.of_rules.items():
        listing.add_row(
            *(name, f"{cost.without:.4f}", f"{cost.within:.4f}", f"{cost.within - cost.without:+.4f}"),
            *(f"{cost.low:+.4f} to {cost.high:+.4f}", f"{cost.n_short:,}"),
        )
    n_users = next(iter(costs.of_rules.values())).n_users
    each = " Each rule is added to the rules above it." if len(costs.of_rules) > 1 else ""
    listing.caption = reader.words(f"Paired over {n_users:,} users with liked test items.") + each
    listing.caption_justify = "left"
    return listing


def _of_new_items(score: "NewItemsScore") -> list[tuple[str, str]]:
    """What is shown and found of the new items."""

    def share(part: int, whole: int) -> str:
        return f"{part:,} of {whole:,}" + (f" ({part / whole:.1%})" if whole else "")

    return [
        ("items without a training rating", f"{score.n_new:,}"),
        ("shown in a list", share(score.n_shown, score.n_new)),
        ("their places", f"{score.n_places:,}, in {score.n_lists:,} lists"),
        ("liked in these places", share(score.n_liked, score.n_places)),
        ("liked of what they displace", share(score.n_displaced_liked, score.n_displaced)),
        ("found of the liked test ratings of new items", share(score.n_liked, score.n_likes)),
    ]
