"""Every shape that goes over a wire, once. REST, MCP, the command line and the worker all use these."""

from holdfast_core.schemas.base import *  # noqa: F403
from holdfast_core.schemas.base import __all__ as _base
from holdfast_core.schemas.jobs import *  # noqa: F403
from holdfast_core.schemas.jobs import __all__ as _jobs
from holdfast_core.schemas.problem import *  # noqa: F403
from holdfast_core.schemas.problem import __all__ as _problem
from holdfast_core.schemas.system import *  # noqa: F403
from holdfast_core.schemas.system import __all__ as _system
from holdfast_core.schemas.workers import *  # noqa: F403
from holdfast_core.schemas.workers import __all__ as _workers

__all__: list[str] = sorted([*_base, *_jobs, *_problem, *_system, *_workers])  # pyright: ignore[reportUnsupportedDunderAll]
