"""Settings: environment variables with the prefix HOLDFAST_, validated at start, then frozen.

`docs/settings.md` lists them; a test compares the two.
"""

import os
from base64 import b64decode
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from holdfast_core.callers import DEFAULT_USER_ID
from holdfast_core.errors import ConfigurationError
from holdfast_core.states import Role

__all__ = ["LOOPBACK_HOSTS", "Settings", "load_settings"]

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip().casefold() for part in value.split(",") if part.strip())
    return value


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
    if any(not found for _, found, _ in pairs):
        raise ValueError("takes VALUE=ROLE, with commas between")
    return {name.strip(): role.strip() for name, _, role in pairs}


def _webhook_key(secret: SecretStr) -> bytes:
    """The key in a secret; empty where it is not of the form."""
    prefix, found, encoded = secret.get_secret_value().partition("whsec_")
    try:
        return b64decode(encoded, validate=True) if found and not prefix else b""
    except ValueError:
        return b""


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
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(),
        description="Proxies whose `X-Forwarded-For` and `-Proto` count: addresses or networks, with commas between.",
    )
    auth_provider: Literal["disabled", "token", "oidc"] = Field(
        default="disabled",
        description="Who may call. `disabled`: everybody who reaches the loopback address. `token`: who has a token of"
        " ours. `oidc`: also those for whom the issuer vouches.",
    )
    oidc_issuer: str | None = Field(
        default=None, description="The OpenID provider's address, exactly as its tokens name it (`iss`)."
    )
    oidc_audience: str | None = Field(
        default=None,
        description="What access tokens for this server name as `aud`; unset: the address of `/mcp`, or of the server.",
    )
    oidc_client_id: str | None = Field(
        default=None, description="The dashboard's client at the provider; unset: no browser login by it."
    )
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="That client's secret, where it has one."
    )
    oidc_role_claim: str = Field(
        default="roles",
        description="The claim that names roles; dots lead into objects (`realm_access.roles`).",
    )
    oidc_role_map: Annotated[dict[str, Role], NoDecode, BeforeValidator(_pairs)] = Field(
        default={},
        description="What the claim's values mean, as `VALUE=ROLE` with commas between; unset: the roles' own names.",
    )
    rate_limit_per_second: int = Field(
        default=1_000,
        ge=0,
        le=1_000_000,
        description="Requests of one caller in a second that one process answers (429 beyond); 0: no limit.",
    )
    max_connections_per_caller: int = Field(
        default=200,
        ge=0,
        le=100_000,
        description="Requests of one caller that one process has open at once, streams among them; 0: no limit.",
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
    pause_sla_seconds: float = Field(
        default=3_600.0,
        ge=0,
        le=31_536_000,
        description="How long a pause should last at most: operators are told of one that lasts longer; 0: never.",
    )
    webhook_url: str | None = Field(
        default=None,
        description="Where a pause that lasts too long is told of, by a signed POST; `https:`, or this very host.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="What it is signed with: `whsec_` and 24 to 64 bytes in base64."
    )
    statsd_url: str | None = Field(
        default=None, description="Where metrics are sent: `udp://HOST:PORT`, or `udp://HOST:PORT/PREFIX`."
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
    mcp_role: Role | None = Field(
        default=None,
        description="Narrows what `holdfast mcp` offers to this role's tools; unset: all that the caller may call.",
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

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            ip_network(proxy, strict=False)  # a ValueError of its own says what is wrong
        return proxies

    @field_validator("oidc_issuer")
    @classmethod
    def _whole_issuer(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if not parts.hostname or parts.query or parts.fragment:
            raise ValueError("is no address such as https://login.example.org/realms/main")
        if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in LOOPBACK_HOSTS):
            raise ValueError("has to begin with https: who sits between could vouch for anybody otherwise")
        return url

    @field_validator("webhook_url")
    @classmethod
    def _safe_webhook(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None or parts.fragment:
            raise ValueError("is no address such as https://alerts.example.org/holdfast")
        if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in LOOPBACK_HOSTS):
            raise ValueError("has to begin with https: reasons of pauses are nobody else's to read")
        return url

    @field_validator("webhook_secret")
    @classmethod
    def _strong_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not 24 <= len(_webhook_key(secret)) <= 64:
            raise ValueError(
                "is not whsec_ and 24 to 64 bytes in base64. Make one: echo whsec_$(openssl rand -base64 32)"
            )
        return secret

    @field_validator("statsd_url")
    @classmethod
    def _known_statsd(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)  # a ValueError of its own says what is wrong, as does the port's
        if parts.scheme != "udp" or not parts.hostname or not parts.port or parts.query or parts.fragment:
            raise ValueError("is no address such as udp://127.0.0.1:8125")
        return url

    @field_validator("oidc_role_map")
    @classmethod
    def _roles_of_people(cls, roles: dict[str, Role]) -> dict[str, Role]:
        if Role.WORKER in roles.values():
            raise ValueError(
                "gives the role worker, which the provider cannot: workers take tokens of this server's own, which are"
                " bound to their ids (`holdfast token create`)"
            )
        return roles

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
    def _whole_webhook(self) -> "Settings":
        if (self.webhook_url is None) != (self.webhook_secret is None):
            missing = "HOLDFAST_WEBHOOK_URL" if self.webhook_url is None else "HOLDFAST_WEBHOOK_SECRET"
            raise ValueError(f"The webhook needs an address and a secret, and {missing} is not set.")
        return self

    @model_validator(mode="after")
    def _safe(self) -> "Settings":
        if self.auth_provider == "disabled" and self.host not in LOOPBACK_HOSTS and not self.allow_insecure:
            raise ValueError(
                f"HOLDFAST_HOST={self.host} would let anybody on the network pause and claim, because"
                " HOLDFAST_AUTH_PROVIDER is disabled. Set it to token or oidc, listen on 127.0.0.1, or set"
                " HOLDFAST_ALLOW_INSECURE=true if the network itself is trusted."
            )
        return self

    @model_validator(mode="after")
    def _whole_oidc(self) -> "Settings":
        if self.auth_provider == "disabled" and self.oidc_issuer is not None:
            raise ValueError(
                "HOLDFAST_OIDC_ISSUER is set, but HOLDFAST_AUTH_PROVIDER is disabled, so nobody would be asked who they"
                " are. Set HOLDFAST_AUTH_PROVIDER=oidc, or unset the issuer."
            )
        if self.auth_provider != "oidc":
            return self
        if self.oidc_issuer is None:
            raise ValueError(
                "HOLDFAST_AUTH_PROVIDER=oidc needs HOLDFAST_OIDC_ISSUER, the provider's address."
            )
        if self.oidc_audience is None and self.public_url is None:
            raise ValueError(
                "HOLDFAST_AUTH_PROVIDER=oidc needs HOLDFAST_OIDC_AUDIENCE, or HOLDFAST_PUBLIC_URL to derive it from:"
                " without it a token that was made for another service would be taken."
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
    def webhook_key(self) -> bytes:
        """What the webhook is signed with (only where it is set)."""
        assert self.webhook_secret is not None
        return _webhook_key(self.webhook_secret)

    @property
    def resource_url(self) -> str | None:
        """The address of `/mcp` as clients know it: what tokens are made for (RFC 8707). None where it is unknown."""
        return None if self.public_url is None else f"{self.public_url.rstrip('/')}/mcp"

    @property
    def audiences(self) -> frozenset[str]:
        """What an access token for this server may name as `aud`."""
        if self.oidc_audience is not None:
            return frozenset({self.oidc_audience})
        public = (self.public_url or "").rstrip("/")
        return frozenset({public, f"{public}/", f"{public}/mcp"}) if public else frozenset()

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
