"""The Django app, which has the command `keyfold_rekey`."""

from __future__ import annotations

from django.apps import AppConfig


class KeyfoldConfig(AppConfig):
    """The app; list `keyfold.integrations.django` in INSTALLED_APPS."""

    name = "keyfold.integrations.django"
    label = "keyfold"
    verbose_name = "Keyfold"
