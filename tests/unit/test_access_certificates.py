"""Callers by certificate: which names a certificate proves, and for how long."""

from __future__ import annotations

import pytest

from certificates import Authority, Issued, self_signed
from keyfold_server.access.tls import certificates as certificates_module
from keyfold_server.access.tls.certificates import CertificateVerifier
from keyfold_server.domain.errors import CallerCredentialError
from keyfold_server.domain.rights import Credential, Identity

_AUTHORITY = Authority()


def _now(issued: Issued) -> float:
    return issued.certificate.not_valid_before_utc.timestamp() + 60


def _identity(issued: Issued, known: CertificateVerifier | None = None) -> Identity | None:
    found = (known or CertificateVerifier()).credential(issued.pem, _now(issued))
    return None if found is None else found.identity


@pytest.mark.parametrize(
    ("names", "proven"),
    [
        (["spiffe://example.org/app"], ("spiffe://example.org/app",)),
        (["dns:app.example", "spiffe://a/b/C_d-e.f"], ("spiffe://a/b/C_d-e.f", "dns:app.example")),
        (
            ["dns:b.example", "uri:urn:x", "dns:a.example", "uri:https://x/y", "dns:B.example"],
            ("uri:https://x/y", "uri:urn:x", "dns:a.example", "dns:b.example"),
        ),
        (["dns:*.example", "dns:a.example"], ("dns:a.example",)),
        (["email:a@example.org", "ip:10.0.0.1", "dns:a.example"], ("dns:a.example",)),
    ],
)
def test_names(names: list[str], proven: tuple[str, ...]) -> None:
    """A certificate proves its SPIFFE id, URIs and DNS names, in this order, sorted."""
    issued = _AUTHORITY.issue(*names, common_name="admin")
    assert _identity(issued) == Identity(proven, "certificate")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "names no caller"),
        (["email:a@example.org", "ip:10.0.0.1"], "names no caller"),
        (["dns:*.example"], "names no caller"),
        (["dns:", "uri:"], "names no caller"),
        (["spiffe://example.org/a", "spiffe://example.org/b"], "only one"),
        (["spiffe://example.org/a", "uri:https://x"], "only one"),
        (["spiffe://example.org"], "of the form"),
        (["spiffe://example.org/"], "of the form"),
        (["spiffe://example.org/a/"], "of the form"),
        (["spiffe://example.org//a"], "of the form"),
        (["spiffe://example.org/a/../b"], "of the form"),
        (["spiffe://example.org/a?b"], "of the form"),
        (["spiffe://example.org/a#b"], "of the form"),
        (["spiffe://example.org:443/a"], "of the form"),
        (["spiffe://user@example.org/a"], "of the form"),
        (["spiffe://example.org/a%2fb"], "of the form"),
        (["spiffe://EXAMPLE.org/a"], "of the form"),
        (["SPIFFE://example.org/a"], "of the form"),
        (["spiffe://example.org/a\n"], "of the form"),
        (["spiffe:/example.org/a"], "of the form"),
        (["uri:https://x y"], "characters"),
        (["uri:https://x\nspiffe://example.org/a"], "characters"),
        (["dns:a\x00.example"], "characters"),
        (["uri:https://" + "x" * 2_048], "characters"),
        ([f"dns:h{number}.example" for number in range(65)], "more than 64"),
    ],
)
def test_certificates_that_prove_nobody(names: list[str], why: str) -> None:
    """A certificate without a plain name is refused; its common name never counts."""
    issued = _AUTHORITY.issue(*names, common_name="spiffe://example.org/admin")
    with pytest.raises(CallerCredentialError, match=why):
        _identity(issued)


@pytest.mark.parametrize("name", ["spiffe://example.org/app", "uri:urn:app", "dns:app.example"])
def test_an_authority_is_no_workload(name: str) -> None:
    """A certificate that may sign others is no caller's, whatever it names (X509-SVID standard)."""
    for issued in (_AUTHORITY.issue(name, ca=True), _AUTHORITY.issue(name, signs=True)):
        with pytest.raises(CallerCredentialError, match="authority's"):
            _identity(issued)


def test_no_certificate() -> None:
    """Without a client certificate, encrypted or not, there is no caller by certificate."""
    assert CertificateVerifier().credential(None, 0) is None


def test_what_is_no_certificate() -> None:
    """A certificate that cannot be read is refused, without the parser's message."""
    for pem in (b"", b"junk", self_signed("localhost")[0]):
        with pytest.raises(CallerCredentialError, match="cannot be read"):
            CertificateVerifier().credential(pem, 0)


def test_expiry_is_looked_at_on_each_call() -> None:
    """A connection that outlives its client's certificate proves nothing any more."""
    issued = _AUTHORITY.issue("spiffe://example.org/app")
    ends = issued.certificate.not_valid_after_utc.timestamp()
    known = CertificateVerifier()
    for _ in range(2):
        assert known.credential(issued.pem, ends) is not None
        with pytest.raises(CallerCredentialError, match="has expired"):
            known.credential(issued.pem, ends + 1)
    with pytest.raises(CallerCredentialError, match="not valid yet"):
        known.credential(issued.pem, issued.certificate.not_valid_before_utc.timestamp() - 1)


def test_a_warm_call_parses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is parsed once, and only so many stay in memory."""
    read = []
    original = certificates_module._read

    def counting(pem: bytes) -> Credential:
        read.append(pem)
        return original(pem)

    monkeypatch.setattr(certificates_module, "_read", counting)
    known = CertificateVerifier(most_remembered=2)
    one, two, three = (_AUTHORITY.issue(f"dns:{n}.example") for n in ("one", "two", "three"))
    for issued in (one, two, one, three, one, two):
        _identity(issued, known)
    # The third pushed out the second, which was not used for longest.
    assert read == [one.pem, two.pem, three.pem, two.pem]
    assert len(known._known) == 2
