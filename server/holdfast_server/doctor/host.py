"""The settings, and what this host allows: the certificate, the port, open files."""

import difflib
import http.client
import os
import socket
import ssl
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Final

from holdfast_core.errors import ConfigurationError
from holdfast_core.settings import Settings
from holdfast_server.commands.tls import server_context
from holdfast_server.doctor.checks import Check, ok, problem, warning

__all__ = ["examine_host", "misspelt"]

_PREFIX: Final = "HOLDFAST_"
#: How alike a variable and a setting must be for one to be taken for a slip of the other.
_ALIKE: Final = 0.85
#: Every connection of a client takes one.
ENOUGH_FILES: Final = 1_024
PROBE_SECONDS: Final = 2.0


def examine_host(settings: Settings) -> list[Check]:
    """Blocks, for a few seconds at most."""
    checks = [_settings(settings)]
    if settings.tls_cert is not None:
        checks.append(_certificate(settings))
    checks.append(_port(settings))
    if sys.platform != "win32":
        checks.append(_open_files())
    return checks


def _settings(settings: Settings) -> Check:
    slips = misspelt(os.environ)
    if slips:
        named = ", ".join(f"{name} (not {meant})" for name, meant in slips.items())
        return warning("settings", f"Valid, but no setting is named {named}.", "Mend the name, or unset it.")
    kind = "SQLite" if settings.is_sqlite else "PostgreSQL"
    return ok("settings", f"Valid: {kind}, authentication {settings.auth_provider}.")


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that are read by nobody and look like a setting, with the name that may have been meant."""
    known = [name.upper() for name in Settings.model_fields]
    found: dict[str, str] = {}
    for variable in environment:
        name = variable.removeprefix(_PREFIX)
        if name != variable and name not in known:
            for meant in difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE):
                found[variable] = _PREFIX + meant
    return found


def _certificate(settings: Settings) -> Check:
    try:
        server_context(settings)
    except ConfigurationError as error:
        return problem("certificate", str(error), "`holdfast serve` will not start until it is mended.")
    key = settings.tls_key
    if key is not None and sys.platform != "win32" and key.stat().st_mode & 0o077:
        return warning(
            "certificate", f"The key {key} is open to other users of this host.", f"chmod 600 {key}"
        )
    return ok("certificate", f"{settings.tls_cert} and its key fit each other.")


def _port(settings: Settings) -> Check:
    where = f"{settings.host} port {settings.port}"
    if settings.port == 0:
        return ok("port", "Any free one.")
    if (said := _who_answers(settings)) is not None:
        return said
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return problem(
            "port",
            f"Nothing can listen on {where}: {error.strerror or error}.",
            "Choose another: --host, --port.",
        )
    return ok("port", f"{where} is free.")


def _who_answers(settings: Settings) -> Check | None:
    """What listens there already; None where nobody does."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    where = f"{settings.host} port {settings.port}"
    try:
        socket.create_connection((host, settings.port), PROBE_SECONDS).close()
    except OSError:
        return None
    try:
        with closing(_connection(settings, host)) as connection:
            connection.request("GET", "/healthz")
            if connection.getresponse().read(1_000) == b'{"ok":true}':
                return ok("port", f"A Holdfast server answers at {where} already.")
    except (OSError, http.client.HTTPException):
        pass
    return problem(
        "port", f"Another program listens on {where}.", "End it, or choose another: --host, --port."
    )


def _connection(settings: Settings, host: str) -> http.client.HTTPConnection:
    if settings.tls_cert is None:
        return http.client.HTTPConnection(host, settings.port, timeout=PROBE_SECONDS)
    # Whether the certificate is trusted is the clients' question; here it is only who is there.
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.port, timeout=PROBE_SECONDS, context=anyone)


def _open_files() -> Check:
    import resource

    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)  # `serve` raises its own up to here
    if limit == resource.RLIM_INFINITY:
        return ok("open files", "No limit.")
    if limit < ENOUGH_FILES:
        return warning(
            "open files",
            f"A process may have {limit} files open, and every connection is one.",
            f"Raise the limit to {ENOUGH_FILES} or more: ulimit -Hn, or LimitNOFILE= in the service's unit.",
        )
    return ok("open files", f"A process may have {limit}, and every connection is one.")
