"""Models with encrypted fields, without a database: pages, queries, checks and migrations."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import models
from django.db.migrations.writer import MigrationWriter
from django.test import override_settings

import pages
import shop.setup  # noqa: F401  Django is set up before the models are imported
from e2e.server import BIN, clean_environment
from in_process import serving
from keyfold.integrations.django import (
    EncryptedColumnError,
    EncryptedLookupError,
    EncryptedTextField,
)
from shop.models import Card, Reminder, Ticket
from tenants import Place

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "django.md"

SECRET = "4111-secret"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server with the cluster acme."""
    (folder := tmp_path / "server").mkdir()
    with serving(folder) as server, Place(server) as made:
        yield made


def test_the_page_runs(place: Place, tmp_path: Path) -> None:
    """A new project that follows docs/integrations/django.md prints what the page shows."""
    folder = tmp_path / "project"
    folder.mkdir()
    environment = clean_environment()
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    pages.assert_runs(
        PAGE.read_text(encoding="utf-8"),
        folder=folder,
        environment=environment,
        here={"127.0.0.1:7443": place.server.target, '"prod"': '"acme"'},
        timeout=110,
    )


@pytest.mark.parametrize(
    "question",
    [
        {"number": SECRET},
        {"number__exact": SECRET},
        {"number__in": [SECRET]},
        {"number__contains": "4"},
        {"number__gt": "4"},
        {"number__regex": "4"},
        {"details__a": 1},
        {"details": {}},
        {"picture": b"x"},
    ],
)
def test_questions_about_the_value_are_refused(question: dict[str, Any]) -> None:
    """A lookup that could never find anything is an error that says so, and Django's FieldError."""
    for ask in (Card.objects.filter, Card.objects.exclude, Card.objects.get_or_create):
        with pytest.raises(EncryptedLookupError, match="is encrypted") as caught:
            ask(**question)
        assert isinstance(caught.value, FieldError)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("number", 4111), ("picture", "4"), ("details", {"a": {SECRET}})]
)
def test_values_of_another_kind_are_refused_when_set(name: str, value: Any) -> None:
    """The line that sets a wrong value gets the error, which names the field alone."""
    with pytest.raises(EncryptedColumnError, match=rf"shop\.Card\.{name} holds") as caught:
        Card(**{name: value})
    assert SECRET not in str(caught.value)


def test_checks_find_what_cannot_work() -> None:
    """`manage.py check` names options that cannot work with an encrypted column."""

    class Wrong(models.Model):  # type: ignore[misc]
        nowhere = EncryptedTextField(tenant="organisation")
        far = EncryptedTextField(tenant="id__name")
        rowless = EncryptedTextField(tenant="id", row="slug")
        once = EncryptedTextField(tenant="id", unique=True)
        sorted = EncryptedTextField(tenant="id", db_index=True)
        given = EncryptedTextField(tenant="id", db_default="x")
        bound = EncryptedTextField(tenant="id", bound_as="table")

        class Meta:
            app_label = "wrong"

    found = [(fault.id, fault.obj.name) for fault in Wrong.check() if "keyfold" in (fault.id or "")]
    assert found == [
        ("keyfold.E001", "nowhere"),
        ("keyfold.E001", "far"),
        ("keyfold.E002", "rowless"),
        ("keyfold.E003", "once"),
        ("keyfold.E003", "sorted"),
        ("keyfold.E004", "given"),
        ("keyfold.E005", "bound"),
    ]
    assert checks.run_checks() == []


def test_migrations_hold_no_secret() -> None:
    """A migration has the field's options, and building it again gives the same field."""
    for model, name, options in (
        (Card, "number", "max_length=30, tenant='organization'"),
        (Ticket, "seat", "row=('slug',), tenant='organization'"),
        (Reminder, "text", "tenant=shop.models.of_invoice"),
    ):
        field = model._meta.get_field(name)
        code, _ = MigrationWriter.serialize(field)
        assert code.startswith("keyfold.integrations.django.Encrypted")
        assert options in code
        assert field.clone().deconstruct()[1:] == field.deconstruct()[1:]
    out = io.StringIO()
    with override_settings(MIGRATION_MODULES={}):
        call_command("makemigrations", "shop", dry_run=True, verbosity=3, stdout=out)
    assert "keyfold.integrations.django.EncryptedTextField(tenant='organization')" in out.getvalue()


def test_without_the_extra_one_line_says_what_to_install() -> None:
    """A program without Django ends with the name of the extra."""
    code = "import sys; sys.modules['django'] = None; import keyfold.integrations.django"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stderr.splitlines()[-1].endswith("install keyfold[django]")
    assert "During handling" not in done.stderr
