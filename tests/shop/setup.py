"""Sets Django up for the tests of this process, on SQLite and, if it is there, PostgreSQL."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections

import postgres

FOLDER = Path(tempfile.mkdtemp(prefix="keyfold-shop-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


class Router:
    """Leads every query to the database of the test."""

    alias = "default"

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return self.alias

    db_for_write = db_for_read

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return True


SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(FOLDER / "shop.db")}
APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "keyfold.integrations.django",
    "shop",
]
settings.configure(
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": SQLITE},
    DATABASE_ROUTERS=["shop.setup.Router"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=APPS,
    KEYFOLD_TENANTS="shop.keys.tenants",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    MIGRATION_MODULES={"shop": None},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF="shop.urls",
    SECRET_KEY="tests",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    USE_TZ=True,
)
django.setup()

from django.contrib.contenttypes.models import ContentType  # noqa: E402  needs the settings


def use(alias: str) -> None:
    """Has the tests use a database, which is then empty; skips the test if it is not there."""
    if alias != "default" and alias not in connections.settings:
        server = postgres.shared("15")
        connections.settings[alias] = connections.configure_settings(
            {
                "default": SQLITE,
                alias: {
                    "ENGINE": "django.db.backends.postgresql",
                    "HOST": "127.0.0.1",
                    "PORT": str(server.port),
                    "USER": postgres.USER,
                    "PASSWORD": server.password,
                    "NAME": server.create(),
                },
            }
        )[alias]
    Router.alias = alias
    if alias not in _MADE:
        # Making the tables takes longer than most tests.
        call_command("migrate", run_syncdb=True, verbosity=0, database=alias)
        _MADE.add(alias)
    # Without what follows a migration, the types of contents come when somebody asks for one.
    call_command("flush", interactive=False, verbosity=0, database=alias, inhibit_post_migrate=True)
    ContentType.objects.clear_cache()


_MADE: set[str] = set()
"""The databases that have the tables."""
