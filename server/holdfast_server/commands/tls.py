"""The certificate and the key of `holdfast serve`, read and compared before anything is opened."""

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from holdfast_core.errors import ConfigurationError

if TYPE_CHECKING:
    from holdfast_core.settings import Settings

__all__ = ["server_context"]

#: What OpenSSL says of a key that belongs to another certificate; the last of a key of another kind.
_MISMATCH: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def server_context(settings: "Settings") -> ssl.SSLContext | None:
    """What HTTPS needs, for TLS 1.2 or later; None where no certificate is set.

    Raises ConfigurationError naming the file that cannot be read, is none, or does not fit the other.
    """
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None or key is None:
        return None
    _readable("HOLDFAST_TLS_CERT", certificate, holds="CERTIFICATE")
    _readable("HOLDFAST_TLS_KEY", key, holds="PRIVATE KEY")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def passphrase() -> NoReturn:
        # Without this OpenSSL would ask for it on the terminal, and a service would hang.
        raise ConfigurationError(
            f"HOLDFAST_TLS_KEY {key} is locked with a passphrase, which a server that starts by itself"
            " cannot give. Store it without: openssl pkey -in KEY -out PLAIN-KEY"
        )

    try:
        context.load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        if error.reason in _MISMATCH:
            raise ConfigurationError(
                f"HOLDFAST_TLS_KEY {key} is not the key of the certificate HOLDFAST_TLS_CERT {certificate}."
                " Name the key that the certificate was made for."
            ) from None
        raise ConfigurationError(
            f"OpenSSL cannot use HOLDFAST_TLS_CERT {certificate} with HOLDFAST_TLS_KEY {key}"
            f" ({error.reason or error}). Both must be whole PEM files."
        ) from None
    return context


def _readable(name: str, path: Path, *, holds: str) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{name} {path} cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from None
    if f"{holds}-----".encode() not in text:
        raise ConfigurationError(f"{name} {path} holds no {holds.lower()} in PEM form (-----BEGIN …).")
