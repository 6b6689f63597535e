"""A form for each provider, in which a customer names a key as the provider's own console does.

The server decides what a key may look like; a form only puts the fields together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from keyfold import KeySpec


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form.

    Attributes:
        name: The field's name in the form.
        label: What it is called, in the provider's words.
        hint: Where to find it, and what it is for.
        example: What one looks like.
        required: Whether the form is refused without it.
        violates: The path of the field of the request that an error of the server names.
    """

    name: str
    label: str
    hint: str
    example: str
    required: bool = False
    violates: str = "key_spec.auth_principal"


@dataclass(frozen=True, slots=True)
class ProviderForm:
    """The form of one provider.

    Attributes:
        type: The provider's type in a key spec.
        title: Its name.
        kind: What a customer's key there is.
        fields: The fields.
        spec: Puts the values of the fields together.
        before: What the customer needs before it begins.
    """

    type: str
    title: str
    kind: str
    fields: tuple[Field, ...]
    spec: Callable[[Mapping[str, str]], KeySpec]
    before: str


def _uri(label: str, hint: str, example: str) -> Field:
    return Field("uri", label, hint, example, required=True, violates="key_spec.uri")


def _plain(type_: str) -> Callable[[Mapping[str, str]], KeySpec]:
    return lambda given: KeySpec(type_, given.get("uri", ""), given.get("principal", ""))


def _azure(given: Mapping[str, str]) -> KeySpec:
    tenant, client = given.get("tenant", ""), given.get("client", "")
    return KeySpec(
        "AZURE_KEY_VAULT", given.get("uri", ""), "/".join(filter(None, (tenant, client)))
    )


def _gcp(given: Mapping[str, str]) -> KeySpec:
    delegates = ",".join(
        each.strip() for each in given.get("delegates", "").split(",") if each.strip()
    )
    options = {"delegates": delegates} if delegates else {}
    return KeySpec("GCP_CLOUD_KMS", given.get("uri", ""), given.get("principal", ""), options)


def _local(given: Mapping[str, str]) -> KeySpec:
    name = given.get("uri", "")
    return KeySpec("LOCAL", name if name.startswith("local:") or not name else f"local:{name}")


_SEAT: Final = "Enter seat if your vendor said that each cluster gets an identity of its own."

FORMS: Final[Mapping[str, ProviderForm]] = {
    form.type: form
    for form in (
        ProviderForm(
            "AWS_KMS",
            "AWS KMS",
            "A symmetric key in your AWS account",
            (
                _uri(
                    "Key ARN",
                    "In the AWS console: KMS, Customer managed keys, your key, ARN. Not an alias: "
                    "somebody could point it at another key.",
                    "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
                ),
                Field(
                    "principal",
                    "ARN of the role in your account",
                    "The IAM role that the service takes on to use the key. It need not exist yet. "
                    "Leave it empty if your vendor uses an identity of its own. " + _SEAT,
                    "arn:aws:iam::111122223333:role/keyfold",
                ),
            ),
            _plain("AWS_KMS"),
            "a symmetric key for encryption and decryption, and the right to change its key policy",
        ),
        ProviderForm(
            "AZURE_KEY_VAULT",
            "Azure Key Vault or Managed HSM",
            "A key in your vault or Managed HSM",
            (
                _uri(
                    "Key identifier",
                    "In the Azure portal: your vault, Keys, your key. Without a version at the "
                    "end, so that a new version can take over.",
                    "https://acme-prod.vault.azure.net/keys/keyfold",
                ),
                Field(
                    "tenant",
                    "Tenant id",
                    "Your own directory: Microsoft Entra ID, Overview, Tenant ID. Leave both this "
                    "and the next field empty if your vendor uses an identity of its own.",
                    "6f1d3c1e-2b7a-4a55-9c0e-7d5f0a9b4e21",
                ),
                Field(
                    "client",
                    "Application id",
                    "Your vendor tells you the id of its application. " + _SEAT,
                    "0b0c0d0e-0000-4000-8000-000000000001",
                ),
            ),
            _azure,
            "an RSA-HSM or oct-HSM key, and the right to assign roles on it",
        ),
        ProviderForm(
            "GCP_CLOUD_KMS",
            "Google Cloud KMS",
            "A symmetric key in your Google Cloud project",
            (
                _uri(
                    "Resource name of the key",
                    "In the Google Cloud console: Key Management, your key ring, your key, Copy "
                    "resource name. Without a version at the end, and with the project's id.",
                    "projects/acme-prod/locations/europe-west1/keyRings/cmek/cryptoKeys/keyfold",
                ),
                Field(
                    "principal",
                    "Service account",
                    "The account in your project that the service impersonates. Leave it empty if "
                    "your vendor uses an identity of its own. " + _SEAT,
                    "keyfold-user@acme-prod.iam.gserviceaccount.com",
                ),
                Field(
                    "delegates",
                    "Delegates",
                    "Only if the way to that account leads through others: name them in order, "
                    "with commas between.",
                    "first@acme-prod.iam.gserviceaccount.com",
                    violates="key_spec.options",
                ),
            ),
            _gcp,
            "a key of purpose symmetric encryption, and the right to set its IAM policy",
        ),
        ProviderForm(
            "VAULT_TRANSIT",
            "HashiCorp Vault or OpenBao",
            "A key of the transit engine on your own server",
            (
                _uri(
                    "URL of the key",
                    "The address at which your server serves the key, with a namespace after /v1/ "
                    "if you use one. Your vendor must know the server first.",
                    "https://vault.acme.example:8200/v1/transit/keys/app",
                ),
                Field(
                    "principal",
                    "Role",
                    "The role with which the service logs in. Leave it empty for the one that you "
                    "agreed on with your vendor.",
                    "auth/jwt/role/keyfold",
                ),
            ),
            _plain("VAULT_TRANSIT"),
            "a key of type aes256-gcm96, and the right to write a policy",
        ),
        ProviderForm(
            "LOCAL",
            "Local file",
            "A key in a file of the server, to try things out",
            (
                _uri(
                    "Name of the key",
                    "As keyfold-server dev-keys create made it.",
                    "local:acme",
                ),
            ),
            _local,
            "a key that keyfold-server dev-keys has made",
        ),
    )
}
"""The forms, by the provider's type."""


def form_of(type_: str) -> ProviderForm | None:
    """Returns the form of a provider; one that takes any name if this console has none for it."""
    if not type_ or type_ == "PLATFORM":
        return None
    return FORMS.get(type_) or ProviderForm(
        type_,
        type_,
        f"A key of the provider {type_}",
        (
            _uri("Name of the key", "As the provider's own page says.", f"{type_.lower()}:name"),
            Field("principal", "Principal", "As your vendor told you; often empty.", ""),
        ),
        _plain(type_),
        "what your vendor told you",
    )


def title_of(type_: str) -> str:
    """Returns the name of a provider for people."""
    form = FORMS.get(type_)
    if type_ == "PLATFORM":
        return "The vendor's own key"
    return form.title if form else type_
