"""The shop's admin."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from shop.models import Card

if not admin.site.is_registered(Card):

    @admin.register(Card)
    class CardAdmin(admin.ModelAdmin):  # type: ignore[misc]
        """Cards with their numbers."""

        list_display = ("id", "organization", "number")


urlpatterns = [path("admin/", admin.site.urls)]
