"""Which files make a lane a TLS lane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reedbed.common.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Files in PEM. `ca` is whom we trust; `cert` and `key` are who we are.

    A server needs cert and key, and with `ca` asks each client for a certificate that this CA signed. A client needs
    nothing but its own `ca` (else the system's), and cert and key where the server asks for them.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidArgument("a TLS certificate needs its key, and a key its certificate", hint="Give both files")

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Contents of ca, cert and key; InvalidArgument for a file that cannot be read or is no PEM."""
        return _pem(self.ca), _pem(self.cert), _pem(self.key)


def tls_from(ca: str | Path | None, cert: str | Path | None, key: str | Path | None) -> TlsConfig | None:
    """The configuration, or None if no file is given: then lanes are not encrypted."""
    files = [Path(path) if path else None for path in (ca, cert, key)]
    return TlsConfig(*files) if any(files) else None


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"cannot read the TLS file: {error.strerror}", where=str(path)) from None
    if b"-----BEGIN " not in data:
        raise InvalidArgument("the TLS file is not in PEM", where=str(path))
    return data
