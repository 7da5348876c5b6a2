"""Where a server's MCP endpoint is, from the address that a person gave."""

import re
from typing import Final
from urllib.parse import urlencode, urlsplit

from holdfast_core.errors import ConfigurationError

__all__ = ["endpoint_of"]

_CHARACTERS: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")  # RFC 3986, section 2


def endpoint_of(url: str, names: str | None) -> str:
    """The address of the MCP endpoint, from the server's base address or from that endpoint itself.

    `names` is how tools are to be listed (`dot`, `underscore`), unless the address says it. Raises
    ConfigurationError.
    """
    base = url.strip()
    try:
        if not _CHARACTERS.fullmatch(base):
            raise ValueError("it holds characters that no address has")
        parts = urlsplit(base)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"--url {_without_user(base)!a} is not an address: {error}.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(
            f"--url {_without_user(base)!a} is not an address like http://127.0.0.1:8790. A token goes into"
            " HOLDFAST_TOKEN."
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/mcp"):
        path += "/mcp"
    query = parts.query
    if names is not None and "names=" not in query:
        query = "&".join(filter(None, (query, urlencode({"names": names}))))
    return parts._replace(path=path, query=query).geturl()


def _without_user(url: str) -> str:
    scheme, found, rest = url.partition("//")
    return scheme + found + rest.rpartition("@")[2]
