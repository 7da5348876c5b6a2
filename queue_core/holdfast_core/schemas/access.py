"""Tokens, sessions and who one is (CONTRACT section 4)."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from holdfast_core.schemas.base import (
    Answer,
    Capabilities,
    Name,
    PersonRequest,
    Query,
    ShortText,
    broken_rule,
)
from holdfast_core.states import Role

__all__ = [
    "MAX_TOKEN_SECONDS",
    "CreatedToken",
    "Identity",
    "LoginRequest",
    "Token",
    "TokenKind",
    "TokenList",
    "TokenQuery",
    "TokenRequest",
    "WorkerTokenRequest",
]

#: Ten years: who wants a token without an end leaves it out.
MAX_TOKEN_SECONDS = 315_360_000

TokenKind = Literal["api", "worker"]
PersonRole = Literal[Role.VIEWER, Role.PRODUCER, Role.OPERATOR, Role.ADMIN]
Label = Annotated[ShortText, Field(min_length=1)]
Lifetime = Annotated[int, Field(ge=1, le=MAX_TOKEN_SECONDS, description="From now; left out: no end.")]


def _flag(value: object) -> object:
    """As a query string has it: nothing else means yes or no."""
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, bool):
        return value
    raise ValueError("should be true or false")


class WorkerTokenRequest(PersonRequest):
    """A token for one worker."""

    worker_id: Name = Field(description="The worker that it is bound to.")
    name: Label | None = Field(default=None, description="What it is for; else the worker's id.")
    types: Annotated[list[Name], Field(max_length=64)] | None = Field(
        default=None, description="The types of jobs that it may claim; left out: any."
    )
    capabilities: Capabilities | None = Field(
        default=None, description="The capabilities that it may claim with; left out: any."
    )
    expires_in_seconds: Lifetime | None = None


class TokenRequest(PersonRequest):
    """A token with a role, of a user, or (with `workerId`) one for a worker."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["role", "user"]}, {"required": ["workerId"]}]}
    )

    role: PersonRole | None = Field(
        default=None, description="What it may do; left out for a worker's token."
    )
    user: Label | None = Field(
        default=None, description="Who stands behind it, as the audit log shows it; left out for a worker's."
    )
    name: Label | None = Field(default=None, description="What it is for; else the user's name.")
    worker_id: Name | None = None
    types: Annotated[list[Name], Field(max_length=64)] | None = None
    capabilities: Capabilities | None = None
    expires_in_seconds: Lifetime | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> "TokenRequest":
        if self.worker_id is None:
            for field, given in (("types", self.types), ("capabilities", self.capabilities)):
                if given is not None:
                    raise broken_rule(field, "belongs to a worker's token: give its workerId")
            if self.role is None:
                raise broken_rule("role", "is required, or the workerId of a worker's token")
            if self.user is None:
                raise broken_rule("user", "is required with a role, so that the audit log can name somebody")
        elif self.role is not None:
            raise broken_rule("role", "has no place beside workerId: a worker's token is for that alone")
        elif self.user is not None:
            raise broken_rule("user", "has no place beside workerId: nobody stands behind a worker")
        return self


class TokenQuery(Query):
    """Which tokens are listed."""

    all: Annotated[bool, BeforeValidator(_flag)] = Field(
        default=False, description="Also those that were revoked or have expired: true or false."
    )


class Token(Answer):
    """A token, without its value."""

    id: UUID
    kind: TokenKind
    name: str
    role: Role
    user: str | None = Field(default=None, description="Who stands behind it; null for a worker's.")
    user_id: UUID | None = None
    worker_id: str | None = None
    types: list[str] | None = Field(default=None, description="Of a worker's token; null: any.")
    capabilities: list[str] | None = Field(default=None, description="Of a worker's token; null: any.")
    created_at: datetime
    created_by: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = Field(default=None, description="Up to a minute old.")


class CreatedToken(Token):
    """A new token. `token` is shown this once: only its hash is kept."""

    token: str


class TokenList(Answer):
    """Tokens, newest first."""

    items: list[Token]


class LoginRequest(PersonRequest):
    """A token, to be traded for a session."""

    token: Annotated[str, Field(min_length=1, max_length=8_192)]


class Identity(Answer):
    """Who is asking, and what they may do."""

    name: str
    user_id: UUID | None = None
    roles: list[Role]
    worker_id: str | None = None
    permissions: list[str]
    provider: Literal["disabled", "token", "oidc"]
    expires_at: datetime | None = Field(default=None, description="When the login or token ends by itself.")
