"""Encrypted fields for Django: each row under the key of its own tenant.

    class Card(models.Model):
        organization = models.CharField(max_length=50)
        number = EncryptedTextField(tenant="organization")
        objects = EncryptedManager()

    INSTALLED_APPS = [..., "keyfold.integrations.django"]
    KEYFOLD_TENANTS = "shop.keys.tenants"  # a Tenants, or a function that returns one

A field encrypts in `pre_save`, where it sees the row, so no value can be encrypted for another
tenant than that of its row. docs/integrations/django.md says the rest.

    fields      the fields
    attribute   the attribute of a model's instances
    places      the tenant of a row, and what its values are bound to
    lookups     the questions that a query may ask
    managers    rows that were read together, and open together
    rekeying    moving a table's values to newer keys; management/ has the command
    setting     KEYFOLD_TENANTS
"""

try:
    import django as _django
except ImportError:
    raise ImportError("keyfold.integrations.django needs Django: install keyfold[django]") from None

from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.columns.rekeying import Rekeyed, RowFailure
from keyfold.integrations.columns.tenants import Tenants
from keyfold.integrations.django.fields import (
    EncryptedBinaryField,
    EncryptedJSONField,
    EncryptedTextField,
)
from keyfold.integrations.django.lookups import EncryptedLookupError
from keyfold.integrations.django.managers import EncryptedManager, EncryptedQuerySet, open_rows
from keyfold.integrations.django.rekeying import rekey

del _django

__all__ = [
    "EncryptedBinaryField",
    "EncryptedColumnError",
    "EncryptedJSONField",
    "EncryptedLookupError",
    "EncryptedManager",
    "EncryptedQuerySet",
    "EncryptedTextField",
    "Rekeyed",
    "RowFailure",
    "Tenants",
    "open_rows",
    "rekey",
]
