"""The few settings of a forwarder: it has no database and listens nowhere, so it reads none of the others."""

from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast_core.errors import ConfigurationError
from holdfast_core.states import Role

__all__ = ["ForwarderSettings", "load_forwarder_settings"]


class ForwarderSettings(BaseSettings):
    """Environment variables with the prefix HOLDFAST_, as a server reads those of the same name."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", frozen=True, extra="ignore")

    token: str = Field(default="", repr=False)
    mcp_role: Role | None = Field(default=None)
    tool_name_style: Literal["dot", "underscore"] | None = Field(default=None)  # None: as the server has it
    log_format: Literal["console", "json"] = Field(default="console")

    @field_validator("token")
    @classmethod
    def _sendable(cls, token: str) -> str:
        token = token.strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("holds characters that no token has")
        return token


def load_forwarder_settings() -> ForwarderSettings:
    """Settings from the environment. Raises ConfigurationError naming each variable, never its value."""
    try:
        return ForwarderSettings()
    except ValidationError as error:
        told = [
            f"HOLDFAST_{str(item['loc'][0]).upper()} {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise ConfigurationError("; ".join(told)) from None
