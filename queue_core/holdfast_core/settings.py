"""Settings: environment variables with the prefix HOLDFAST_, validated at start, then frozen.

`docs/settings.md` lists them; a test compares the two.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from holdfast_core.callers import DEFAULT_USER_ID
from holdfast_core.errors import ConfigurationError

__all__ = ["LOOPBACK_HOSTS", "Settings", "load_settings"]

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip().casefold() for part in value.split(",") if part.strip())
    return value


def default_database_url() -> str:
    """SQLite in the user's data folder (made on first use)."""
    from platformdirs import user_data_path  # only where the default is wanted: start-up time

    return f"sqlite:///{user_data_path('holdfast', appauthor=False) / 'holdfast.db'}"


class Settings(BaseSettings):
    """All settings of a server process. A worker reads only its own few."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", frozen=True, extra="ignore")

    database_url: str = Field(
        default_factory=default_database_url,
        description="`sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST/DATABASE` (14 or later) for teams.",
    )
    database_listen_url: str | None = Field(
        default=None, description="A direct connection for LISTEN, where the first goes through a pooler."
    )
    database_pool_size: int = Field(
        default=10, ge=2, le=200, description="Connections of one process, at most."
    )
    migrate_on_start: bool = Field(
        default=True, description="Bring the schema up to date at start, under a lock."
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8790, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    workers: int = Field(default=1, ge=1, le=64, description="Server processes that share the port.")
    tls_cert: Path | None = Field(
        default=None, description="A certificate (PEM, with its chain): the server then speaks HTTPS only."
    )
    tls_key: Path | None = Field(
        default=None, description="The certificate's private key (PEM, without a passphrase)."
    )
    public_url: str | None = Field(
        default=None, description="The address that clients use, where a proxy is in front."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(), description="Further values of the Host header that are answered, with commas between."
    )
    auth_provider: Literal["disabled"] = Field(
        default="disabled",
        description="Who may call. `disabled`: everybody who reaches the loopback address.",
    )
    allow_insecure: bool = Field(
        default=False, description="Allow `disabled` on an address that is not loopback."
    )
    default_user_id: UUID = Field(
        default=DEFAULT_USER_ID,
        description="The user that stands behind every call while authentication is disabled.",
    )
    pause_poll_interval_ms: int = Field(
        default=5_000,
        ge=50,
        le=600_000,
        description="How long a paused worker sleeps between claims, in milliseconds.",
    )
    lease_retry_delay_seconds: float = Field(
        default=5.0,
        ge=0,
        le=86_400,
        description="Back-off before a job's second attempt; it doubles with each further one.",
    )
    lease_grace_seconds: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="How long expired leases are left alone after a resume, a start, or an outage of the database.",
    )
    checkpoint_timeout_seconds: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="A running job that has reported nothing for this long counts as slow.",
    )
    require_lease_token: bool = Field(
        default=False, description="Refuse heartbeats and outcomes without a leaseToken."
    )
    require_force_resume: bool = Field(
        default=False, description="Refuse a resume before the drain has ended, unless it says forceResume."
    )
    artifact_dir: Path | None = Field(
        default=None,
        description="A folder for artifacts, which replicas then share; unset: the database keeps them.",
    )
    artifact_max_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1,
        le=1024**3,
        description="The largest artifact that is taken, in bytes.",
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=36_500,
        description="Finished jobs are deleted after this, with their logs and artifacts; unset: kept for good.",
    )
    mcp_role: Literal["viewer", "producer", "worker", "operator", "admin"] | None = Field(
        default=None,
        description="Narrows what `holdfast mcp` offers to this role's tools; unset: all of them.",
    )
    tool_name_style: Literal["dot", "underscore"] = Field(
        default="dot",
        description="How MCP tools are listed: `queue.claim` or `queue_claim`. Both are accepted.",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="How log lines are written."
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_auth_provider(cls, values: dict[str, Any]) -> dict[str, Any]:
        # The name without our prefix is read only where ours is unset.
        bare = os.environ.get("AUTH_PROVIDER")
        if bare and "auth_provider" not in values:
            values["auth_provider"] = bare
        return values

    @field_validator("database_url", "database_listen_url")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        if url is None:
            return None
        scheme, found, rest = url.partition("://")
        match scheme:
            case "sqlite" | "sqlite+aiosqlite" if rest.startswith("/") and len(rest) > 1:
                return f"sqlite://{rest}"
            case "postgresql" | "postgres" | "postgresql+asyncpg" if found:
                return f"postgresql+asyncpg://{rest}"
            case _:
                raise ValueError("is neither sqlite:///PATH nor postgresql://…")

    @field_validator("public_url")
    @classmethod
    def _whole_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)  # a ValueError of its own says what is wrong
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("is no address such as https://holdfast.example.org")
        return url

    @model_validator(mode="after")
    def _whole_tls(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "HOLDFAST_TLS_KEY" if self.tls_key is None else "HOLDFAST_TLS_CERT"
            raise ValueError(
                f"HTTPS needs a certificate and its key, and {missing} is not set. Set both, or none."
            )
        return self

    @model_validator(mode="after")
    def _safe(self) -> "Settings":
        if self.host not in LOOPBACK_HOSTS and not self.allow_insecure:
            raise ValueError(
                f"HOLDFAST_HOST={self.host} would let anybody on the network pause and claim, because"
                " HOLDFAST_AUTH_PROVIDER is disabled. Listen on 127.0.0.1, or set"
                " HOLDFAST_ALLOW_INSECURE=true if the network itself is trusted."
            )
        return self

    @property
    def is_sqlite(self) -> bool:
        """Whether the store is the embedded one."""
        return self.database_url.startswith("sqlite:")

    @property
    def sqlite_path(self) -> Path:
        """The database file (only where `is_sqlite`)."""
        return Path(self.database_url.removeprefix("sqlite:///"))

    @property
    def known_hosts(self) -> frozenset[str]:
        """Host names, in lower case and without ports, that this server answers for."""
        names = {*LOOPBACK_HOSTS, *self.allowed_hosts}
        if self.host not in {"0.0.0.0", "::"}:
            names.add(self.host.casefold())
        if self.public_url and (host := urlsplit(self.public_url).hostname):
            names.add(host.casefold())
        return frozenset(names)


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, `overrides` first. Raises ConfigurationError naming each variable."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines: list[str] = []
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            name = "HOLDFAST_" + str(item["loc"][0]).upper() + " " if item["loc"] else ""
            lines.append(name + item["msg"].removeprefix("Value error, "))
        raise ConfigurationError("; ".join(lines)) from None
