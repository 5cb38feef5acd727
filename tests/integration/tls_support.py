"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path

#: PEM files that make_certificates leaves in its directory, without ".pem"; keys beside them.
LEAVES = {
    "gateway": ("ca", "2", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"),
    "other-name": ("ca", "2", "subjectAltName=DNS:elsewhere.example"),
    "expired": ("ca", "-1", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
    "strategy": ("ca", "2", "subjectAltName=DNS:strategy"),
    "stranger": ("other-ca", "2", "subjectAltName=DNS:strategy"),
}


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(
        ("openssl", *arguments), cwd=directory, check=True, capture_output=True, timeout=60
    )


def make_certificates(directory: Path) -> Path:
    """Two authorities (ca, other-ca) and the certificates of LEAVES, NAME.pem and NAME.key."""
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other-ca"):
        _openssl(
            directory,
            *("req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.pem"),
            *("-days", "2", "-subj", f"/CN={name}"),
        )
    for serial, (name, (issuer, days, extension)) in enumerate(LEAVES.items(), 1):
        (directory / f"{name}.ext").write_text(extension + "\n", encoding="ascii")
        _openssl(
            directory,
            *("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr"),
            *("-subj", f"/CN={name}"),
        )
        _openssl(
            directory,
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem"),
            *("-CAkey", f"{issuer}.key", "-set_serial", str(serial), "-days", days),
            *("-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )
    return directory
