"""Moves the encrypted fields of models to newer keys, with progress, and goes on after a crash."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DEFAULT_DB_ALIAS

import keyfold
from keyfold.integrations.columns.rekeying import Rekeyed
from keyfold.integrations.django.fields import encrypted_fields
from keyfold.integrations.django.rekeying import rekey


class Command(BaseCommand):
    """`manage.py keyfold_rekey`."""

    help = (
        "Moves the values of encrypted fields to the newest keys of their tenants, without opening "
        "them and beside the application's own writes. Run it after a rotation, and retire an old "
        "generation only after a run that moved nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Takes what to move."""
        parser.add_argument(
            "models",
            nargs="*",
            metavar="APP[.MODEL]",
            help="the apps or models to move; by default all that have encrypted fields",
        )
        parser.add_argument(
            "--database", default=DEFAULT_DB_ALIAS, help="the database (default: %(default)s)"
        )
        parser.add_argument(
            "--batch",
            type=int,
            default=500,
            help="how many rows to store at a time (default: %(default)s)",
        )
        parser.add_argument(
            "--checkpoint",
            type=Path,
            metavar="FILE",
            help="where to keep what is done; a later run with the same file goes on from there, "
            "and a run that ends removes it",
        )

    def handle(self, **options: Any) -> None:
        """Moves model after model.

        Raises:
            CommandError: A name is wrong, no server answers, or some values were not moved.
        """
        if options["batch"] < 1:
            raise CommandError("--batch must be at least 1")
        checkpoint = _Checkpoint(options["checkpoint"])
        failed = 0
        for model in _models(options["models"]):
            try:
                failed += self._walk(model, checkpoint, options)
            except keyfold.KeyfoldError as error:
                again = "run it again" if checkpoint.path is None else "run it again to go on"
                raise CommandError(f"{error.reason}: {error.message}; {again}") from error
        checkpoint.remove()
        if failed:
            raise CommandError(f"{failed:,} values were not moved")

    def _walk(self, model: Any, checkpoint: _Checkpoint, options: dict[str, Any]) -> int:
        """Moves one model's values, and returns how many failed."""
        label, using = model._meta.label, options["database"]  # noqa: SLF001
        rows = model._base_manager.using(using).count()  # noqa: SLF001
        total: Counter[str] = Counter()
        after = checkpoint.after(label)
        for done in rekey(model, using=using, after=after, batch=options["batch"]):
            total.update(
                rows=done.rows,
                moved=done.moved,
                current=done.current,
                overtaken=done.overtaken,
                failed=len(done.failures),
            )
            checkpoint.keep(label, done.after[0])
            self._tell_failures(label, done)
            if options["verbosity"] > 1:
                self.stdout.write(_line(label, total, rows))
        self.stdout.write(_line(label, total, rows))
        return total["failed"]

    def _tell_failures(self, label: str, done: Rekeyed) -> None:
        for failure in done.failures:
            error = failure.error
            self.stderr.write(f"{label} {failure.row[0]}: {error.reason}: {error.message}")


class _Checkpoint:
    """A file with the last row of each model that is done."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._done: dict[str, Any] = {}
        if path is not None and path.exists():
            try:
                self._done = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise CommandError(f"{path} is no checkpoint: {error}") from error

    def after(self, label: str) -> Any:
        """Returns the primary key of the last row of a model that is done, or None."""
        return self._done.get(label)

    def keep(self, label: str, after: Any) -> None:
        """Notes that a model's rows are done up to one."""
        self._done[label] = after
        if self.path is not None:
            new = self.path.with_name(f"{self.path.name}.new")
            new.write_text(json.dumps(self._done, cls=DjangoJSONEncoder), encoding="utf-8")
            new.replace(self.path)

    def remove(self) -> None:
        """Forgets all: the next run begins at the beginning."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _models(names: list[str]) -> list[Any]:
    found: list[Any] = []
    for name in names or [config.label for config in apps.get_app_configs()]:
        try:
            if "." in name:
                models = [apps.get_model(name)]
            else:
                models = list(apps.get_app_config(name).get_models())
        except (LookupError, ValueError) as error:
            raise CommandError(str(error)) from error
        own = [model for model in models if encrypted_fields(model) and not model._meta.proxy]  # noqa: SLF001
        if names and not own:
            raise CommandError(f"{name} has no encrypted field")
        found += [model for model in own if model not in found]
    if not found:
        raise CommandError("no model has an encrypted field")
    return found


def _line(label: str, total: Counter[str], rows: int) -> str:
    parts = [f"{total['moved']:,} values moved"]
    parts += [f"{total[name]:,} {name}" for name in ("current", "overtaken", "failed")]
    return f"{label}: {total['rows']:,} of {rows:,} rows: {', '.join(parts)}"
