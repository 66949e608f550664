"""An authority of one's own, and certificates that it signs."""

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

KEY_PASSWORD = "opensesame"  # noqa: S105 - made up
_NOW = dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in files.

    Attributes:
        certificate: The certificate.
        key: Its key.
        locked_key: Its key with a password.
        both: Certificate and key in one file.
    """

    certificate: Path
    key: Path
    locked_key: Path
    both: Path


class Authority:
    """Signs certificates of servers at localhost and 127.0.0.1, and of clients."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        built = _builder(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = built.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(
        self,
        name: str,
        *,
        addresses: Sequence[str] = ("127.0.0.1",),
        dns_names: Sequence[str] = (),
        spiffe_id: str = "",
        expired: bool = False,
        days: int = 1,
    ) -> Pair:
        """Make a certificate of common name `name`, for so many days, with its key; the files have this name, too."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = _builder(_common_name(name), self._name, key, days=-1 if expired else days)
        built = _named(built, addresses, dns_names, spiffe_id)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return _write(
            self._folder, name, built.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256()), key
        )

    def server(self, name: str = "server", *, days: int = 1) -> Pair:
        """Make the certificate of a server that is called by `localhost` or by 127.0.0.1."""
        return self.sign(name, dns_names=["localhost"], days=days)

    def server_context(self, pair: Pair | None = None, *, ask_clients: bool = False) -> ssl.SSLContext:
        """Return what a server on 127.0.0.1 needs; it may refuse clients without a certificate of ours."""
        pair = pair or self.server()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        if ask_clients:
            context.load_verify_locations(self.file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def self_signed(folder: Path, name: str, *, dns_names: Sequence[str] = (), spiffe_id: str = "") -> Pair:
    """Make a certificate that no authority signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    built = _named(_builder(_common_name(name), _common_name(name), key), ["127.0.0.1"], dns_names, spiffe_id)
    return _write(folder, name, built.sign(key, hashes.SHA256()), key)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int = 1
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - dt.timedelta(days=2))
        .not_valid_after(_NOW + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(
    builder: x509.CertificateBuilder, addresses: Sequence[str], dns_names: Sequence[str], spiffe_id: str
) -> x509.CertificateBuilder:
    names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    names += [x509.DNSName(name) for name in dns_names]
    names += [x509.UniformResourceIdentifier(spiffe_id)] if spiffe_id else []
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False) if names else builder


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    chain, plain = certificate.public_bytes(serialization.Encoding.PEM), _pem(key, serialization.NoEncryption())
    contents = {
        "certificate": chain,
        "key": plain,
        "locked_key": _pem(key, serialization.BestAvailableEncryption(KEY_PASSWORD.encode())),
        "both": chain + plain,
    }
    pair = Pair(**{kind: folder / f"{name}-{kind}.pem" for kind in contents})
    for kind, content in contents.items():
        getattr(pair, kind).write_bytes(content)
    return pair


def _pem(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
