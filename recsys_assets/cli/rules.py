"""The command `rules`: the rules for lists, what they leave, and what a limit per value costs."""

import typer

from recsys_assets.cli.reader import Reader
from recsys_assets.cli.terminal import HomeOption, console, facts, follow_up
from recsys_assets.home.blocking import rules_for_lists
from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data.frames import lazy

_PANEL = "Data and settings"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel=_PANEL)(rules)


def rules(home: HomeOption = None) -> None:
    """Show the rules for lists, how many items they leave, and what `max_per_value` costs.

    The cost is the NDCG at 10 of the served model's lists with and without the rule, for the same users and test
    ratings, by the models that were fitted on the training ratings. A rule can be tried before it is written down:
    an environment variable takes precedence over settings.toml.

    Examples: `recsys-assets rules`, `RECSYS_SERVING__MAX_PER_VALUE='{"genres": 3}' recsys-assets rules`
    """
    reader, out = Reader.of(home), console()
    present = rules_for_lists(reader.home, Settings.load(reader.home).serving)
    items = reader.table("items").collect().sort("item")
    allowed = present.allowed(items)
    rules_told = present.told(lazy(reader.table("ratings")))
    told = {name: value for name, value in rules_told.items() if value not in ("", {})}
    shown = [*told.items(), ("items that may be shown", f"{allowed.sum():,} of {len(allowed):,}")]
    out.print(facts([(name, str(value)) for name, value in shown]))
    limits = present.limits(items)
    if limits is None:
        out.print(f"Next: {follow_up('recommend --everybody', reader.home)}", style="dim", soft_wrap=True)
        return
    # Imported here, because the models take a second that rules without a limit do not need.
    from recsys_assets.cli.rule_costs import cost_of

    cost, is_served = cost_of(reader, limits)
    if cost is None:
        out.print("The cost of max_per_value is unknown: there is no liked test rating.", soft_wrap=True)
        return
    out.print(
        f"max_per_value changes NDCG at 10 from {cost.without:.4f} to {cost.within:.4f}: by "
        f"{cost.within - cost.without:+.4f} [{cost.low:+.4f}, {cost.high:+.4f}], 95 % interval, paired over "
        f"{cost.n_users:,} users with liked test items. {cost.n_short:,} of their lists are shorter.",
        soft_wrap=True,
    )
    if not is_served:
        doubt = "These are lists of the models that were trained last. The served model may have other settings."
        out.print(doubt, soft_wrap=True)
