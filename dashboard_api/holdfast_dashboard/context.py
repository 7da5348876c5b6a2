"""What the routes need of the process: its services, its settings, and who is asking."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from holdfast_core.callers import Caller
from holdfast_core.services import Services
from holdfast_core.settings import Settings
from holdfast_dashboard.authentication import caller_of

__all__ = ["Context"]


@dataclass(frozen=True, slots=True)
class Context:
    """Handed to each part of the API. The services exist once the app's lifespan has begun."""

    find_services: Callable[[], Services]
    settings: Settings

    @property
    def services(self) -> Services:
        """The services of this process."""
        return self.find_services()

    def caller(self, request: HTTPConnection) -> Caller:
        """Who is asking: the one place that says so."""
        return caller_of(request)
