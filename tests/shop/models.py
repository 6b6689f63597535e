"""The shop's tables."""

from __future__ import annotations

import uuid
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from keyfold.integrations.django import (
    EncryptedBinaryField,
    EncryptedJSONField,
    EncryptedManager,
    EncryptedTextField,
)


class Account(models.Model):  # type: ignore[misc]
    """A customer."""

    organization = models.CharField(max_length=50)


class Owned(models.Model):  # type: ignore[misc]
    """What an organization has."""

    organization = models.CharField(max_length=50)
    note = EncryptedTextField(tenant="organization", null=True, blank=True)

    class Meta:
        """Each model has a table of its own."""

        abstract = True


class Card(Owned):
    """Rows that the program names."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    number = EncryptedTextField(tenant="organization", max_length=30)
    picture = EncryptedBinaryField(tenant="organization", null=True)
    details = EncryptedJSONField(
        tenant="organization", null=True, blank=True, encoder=DjangoJSONEncoder
    )
    objects = EncryptedManager()

    def __str__(self) -> str:
        return f"card {self.id}"


class Ticket(Owned):
    """Rows that the database numbers."""

    slug = models.SlugField(default="s")
    seat = EncryptedTextField(tenant="organization", row="slug", null=True)
    objects = EncryptedManager()


class Vip(Ticket):
    """A table that goes on in another."""

    lounge = EncryptedTextField(tenant="organization")


class Invoice(models.Model):  # type: ignore[misc]
    """Rows whose tenant is another table's."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE)
    total = EncryptedTextField(tenant="account__organization")
    objects = EncryptedManager()


def of_invoice(row: Any) -> str:
    """Returns the tenant of a reminder."""
    found: str = row.invoice.account.organization
    return found


class Reminder(models.Model):  # type: ignore[misc]
    """Rows whose tenant a function tells."""

    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE)
    text = EncryptedTextField(tenant=of_invoice)
    read = models.BooleanField(default=False)
