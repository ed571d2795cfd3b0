"""Did my rollout engine change the numbers that my RL trainer learns from?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity_check.comparison.tables import Run, load_run

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Import the notebook API on first use: the command line must start without pandas."""
    if name in ("Run", "load_run"):
        from parity_check.comparison import tables

        return getattr(tables, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
