"""Self-signed certificates. Each is its own authority, so that there is no key of an authority to keep."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATED: Final = timedelta(hours=1)
"""Clocks of nodes differ."""
_PEM: Final = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: str
    key: str


def make_pair(names: Sequence[str], *, now: datetime, life: timedelta) -> Pair:
    """A certificate for the DNS names and IP addresses *names* that ends *life* after *now* (aware)."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Two certificates of the same subject cannot be told apart by OpenSSL when one is to be found among the trusted ones.
    serial = x509.random_serial_number()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tidb-backup-webhook {serial:x}"[:64])])
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identity, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate=certificate.public_bytes(_PEM).decode(), key=private.decode())


def what_is_wrong(pair: Pair, *, now: datetime) -> str:
    """Why *pair* cannot serve anybody at *now*, "" when it can. One from the future can: it is our clock then that is wrong."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
        key = serialization.load_pem_private_key(pair.key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "certificate or key cannot be read"
    if key.public_key() != certificate.public_key():
        return "the key is that of another certificate"
    return "the certificate is out of date" if now >= certificate.not_valid_after_utc else ""


def is_for(certificate: str, names: Sequence[str]) -> bool:
    """Whether a readable *certificate* serves all of *names*."""
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    try:
        found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return set(map(_general_name, names)) <= set(found)


def certificate_alone(text: str) -> str:
    """The first certificate in *text*, in PEM, and nothing else that may stand there, like a key; "" when there is none."""
    try:
        return x509.load_pem_x509_certificate(text.encode()).public_bytes(_PEM).decode()
    except ValueError:
        return ""


def issued_at(certificate: str) -> datetime:
    """When a readable *certificate* was made."""
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_before_utc + _BACKDATED


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
