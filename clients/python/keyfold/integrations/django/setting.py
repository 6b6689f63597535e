"""The setting KEYFOLD_TENANTS: who encrypts."""

from __future__ import annotations

import functools
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from keyfold.integrations.columns.tenants import Tenants

_NAME: Final = "KEYFOLD_TENANTS"


@functools.cache
def tenants() -> Tenants:
    """Returns what the setting names.

    It is the path of a `Tenants`, or of a function that returns one, which is called at the first
    use of an encrypted field. So a function makes the client after a server has forked.

    Raises:
        ImproperlyConfigured: The setting is missing, or names something else.
    """
    path = getattr(settings, _NAME, None)
    found: Any = None
    if isinstance(path, str):
        found = import_string(path)
        if not isinstance(found, Tenants) and callable(found):
            found = found()
    if not isinstance(found, Tenants):
        raise ImproperlyConfigured(
            f"{_NAME} must be the path of a keyfold.integrations.django.Tenants, or of a function "
            "that returns one, such as 'shop.keys.tenants'"
        )
    return found


def _changed(*, setting: str, **_: Any) -> None:
    if setting == _NAME:
        tenants.cache_clear()


setting_changed.connect(_changed, dispatch_uid="keyfold")
