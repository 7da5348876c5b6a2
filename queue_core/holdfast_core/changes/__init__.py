"""The change bus: durable state first, then announce, then poll anyway."""

from holdfast_core.changes.bus import ChangeBus, Hub, Kind, Subscription
from holdfast_core.settings import Settings

__all__ = ["ChangeBus", "Hub", "Kind", "Subscription", "open_bus"]


def open_bus(settings: Settings) -> ChangeBus:
    """The bus that goes with the store of these settings. It carries nothing until its `run` runs."""
    if settings.is_sqlite:
        from holdfast_core.changes.sqlite import SqliteBus

        return SqliteBus(settings.sqlite_path)
    from holdfast_core.changes.postgres import PostgresBus

    return PostgresBus(settings)
