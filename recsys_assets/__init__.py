"""A recommender pipeline as Dagster assets: `recsys_assets.build_defs` makes the definitions of a home."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys_assets.orchestration.build import build_defs

__all__ = ["build_defs"]


def __getattr__(name: str) -> Any:
    """`build_defs`, when somebody asks for it: to load Dagster takes seconds, and most commands need none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recsys_assets.orchestration.build import build_defs

    return build_defs
