"""Encrypted fields with the real Django on SQLite and PostgreSQL, and a real Keyfold."""

from __future__ import annotations

import copy
import io
import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.serializers import serialize
from django.db import connection, connections, models, transaction
from django.forms import modelform_factory
from django.test import Client, override_settings

import keyfold
import shop.setup as shop
from in_process import serving
from keyfold.integrations.django import (
    EncryptedColumnError,
    EncryptedTextField,
    Tenants,
    open_rows,
    rekey,
)
from shop import keys
from shop.models import Account, Card, Invoice, Reminder, Ticket, Vip
from tenants import Place

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "django.md"

SECRET = "4111-secret"

pytestmark = pytest.mark.usefixtures("database", "place")


@pytest.fixture(params=["default", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database, of SQLite or PostgreSQL."""
    alias: str = request.param
    shop.use(alias)
    yield alias
    connections.close_all()
    shop.Router.alias = "default"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server with the clusters acme and globex, whose keys the shop uses."""
    (folder := tmp_path / "server").mkdir()
    with serving(folder) as server, Place(server) as made:
        made.warm()
        made.client.calls.clear()
        tenants(made, cache=made.cache)
        yield made


def tenants(place: Place, **options: Any) -> Tenants:
    """Has the shop encrypt with these tenants."""
    made = Tenants(place.client, "eu", **options)
    keys.current[:] = [made]
    with override_settings(KEYFOLD_TENANTS="shop.keys.tenants"):
        pass  # The change has the fields ask again.
    return made


class Plastic(models.Model):  # type: ignore[misc]
    """The cards under another name."""

    id = models.UUIDField(primary_key=True)
    organization = models.CharField(max_length=50)
    digits = EncryptedTextField(
        tenant="organization", bound_as="shop_card.number", db_column="number"
    )

    class Meta:
        """It has no table of its own."""

        app_label = "renamed"
        managed = False
        db_table = "shop_card"


def raw(statement: str, *values: Any) -> Any:
    """Runs a statement behind the models' back."""
    with connections[shop.Router.alias].cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else None


def key_of(row: Any) -> Any:
    """Returns a row's primary key as its column has it."""
    return type(row)._meta.pk.get_db_prep_value(row.pk, connections[shop.Router.alias])


# Storing and reading


def test_values_come_back_and_lie_encrypted() -> None:
    """Text, bytes and JSON come back as they were; the database has none of their bytes."""
    day = {"when": "2031-07-01", "limits": [1, 2.5, None], "ünicode": SECRET}
    Card.objects.create(organization="acme", number=SECRET, picture=b"\0\xff", details=day)
    card = Card.objects.get()
    assert (card.number, bytes(card.picture), card.details) == (SECRET, b"\0\xff", day)
    ((number, picture, details),) = raw("SELECT number, picture, details FROM shop_card")
    for message in (number, picture, details):
        assert bytes(message).startswith(b"KFM")
        assert SECRET.encode() not in bytes(message)


def test_none_is_null(place: Place) -> None:
    """None is stored as NULL, makes no call, and can be asked for."""
    Ticket.objects.create(organization="acme")
    assert raw("SELECT note, seat FROM shop_ticket") == [(None, None)]
    assert not place.client.calls
    assert Ticket.objects.get(note=None).note is None
    assert Ticket.objects.filter(note__isnull=True).count() == 1
    assert Ticket.objects.exclude(note=None).count() == 0


def test_each_row_is_under_its_own_tenants_key(place: Place) -> None:
    """One bulk_create encrypts rows of several tenants, each with its own: no other opens them."""
    names = ("acme", "globex")
    Card.objects.bulk_create(Card(organization=name, number=f"{name} n") for name in names)
    assert place.client.calls == {"generate_data_key": 2}
    for name in names:
        assert Card.objects.get(organization=name).number == f"{name} n"
    Card.objects.filter(organization="acme").update(organization="x")
    Card.objects.filter(organization="globex").update(organization="acme")
    with pytest.raises(keyfold.MessageContextError, match=r"shop_card\.number of cluster acme"):
        _ = Card.objects.get(organization="acme").number


def test_a_row_without_a_tenant_is_not_stored() -> None:
    """Where nobody can tell whose key encrypts, nothing is stored."""
    for tenant in (None, ""):
        with pytest.raises(EncryptedColumnError, match="has no tenant"):
            Card.objects.create(organization=tenant, number=SECRET)
    assert Card.objects.count() == 0


def test_tables_that_go_on_in_others() -> None:
    """Fields of abstract models and of parents' tables work like others."""
    Vip.objects.create(organization="acme", note="hi", seat="4b", lounge="red")
    vip = Vip.objects.get()
    assert (vip.note, vip.seat, vip.lounge) == ("hi", "4b", "red")
    ticket = Ticket.objects.get()
    ticket.note = "ho"
    ticket.save()
    assert Vip.objects.get().note == "ho"


def test_a_tenant_at_the_end_of_a_path(place: Place) -> None:
    """The tenant may be another table's; a row that moves to another account is encrypted anew."""
    acme, globex = (Account.objects.create(organization=name) for name in ("acme", "globex"))
    Invoice.objects.create(account=acme, total=SECRET)
    invoice = Invoice.objects.get()
    invoice.account = globex
    invoice.save()
    place.revoke("acme")
    assert Invoice.objects.get().total == SECRET


def test_a_tenant_that_a_function_tells(place: Place) -> None:
    """A function of the row says whose it is; a row that moved unnoticed is not stored."""
    acme, globex = (Account.objects.create(organization=name) for name in ("acme", "globex"))
    one, other = (Invoice.objects.create(account=account, total="1") for account in (acme, globex))
    Reminder.objects.create(invoice=one, text=SECRET)
    reminder = Reminder.objects.get()
    reminder.read = True
    reminder.save()
    reminder = Reminder.objects.get()
    assert (reminder.text, reminder.read) == (SECRET, True)
    reminder = Reminder.objects.get()
    reminder.invoice = other
    with pytest.raises(keyfold.MessageContextError):
        reminder.save()
    assert Reminder.objects.get().text == SECRET


def test_saving_leaves_what_was_not_set() -> None:
    """A save of a row that was only read stores the same bytes; a set value is encrypted anew."""
    Card.objects.create(organization="acme", number="one", note="kept", details={"a": [1]})
    before = raw("SELECT number, note, details FROM shop_card")
    card = Card.objects.get()
    assert card.details == {"a": [1]}
    card.save()
    assert raw("SELECT number, note, details FROM shop_card") == before
    card = Card.objects.get()
    card.number = "two"
    card.details["a"].append(2)
    card.save()
    card.save()
    card = Card.objects.get()
    assert (card.number, card.note, card.details) == ("two", "kept", {"a": [1, 2]})
    assert raw("SELECT note FROM shop_card") == [before[0][1:2]]


def test_rows_read_in_part(place: Place) -> None:
    """A field that a query left out is read when it is needed, with the tenant that it had."""
    Card.objects.create(organization="acme", number=SECRET, note="n")
    assert Card.objects.only("id").get().number == SECRET
    card = Card.objects.defer("number").get()
    card.organization = "globex"
    assert card.number == SECRET
    card = Card.objects.defer("note").get()
    card.save()
    assert Card.objects.get().note == "n"
    card.refresh_from_db()
    assert card.number == SECRET
    (cell,) = Card.objects.values_list("number", flat=True)
    assert repr(cell) == "Cell(<encrypted>)"


# Whose value it is


def test_a_value_that_was_copied_does_not_open() -> None:
    """In another row, column or table, a value of somewhere else is refused."""
    one, two = (Card.objects.create(organization="acme", number="n", note="n") for _ in range(2))
    Ticket.objects.create(organization="acme", note="n")
    keys_of = [key_of(two), key_of(one)]
    for source, values in (
        ("SELECT number FROM shop_card WHERE id = %s", keys_of),
        ("SELECT note FROM shop_card WHERE id = %s", keys_of[1:] * 2),
        ("SELECT note FROM shop_ticket", keys_of[1:]),
    ):
        raw(f"UPDATE shop_card SET number = ({source}) WHERE id = %s", *values)
        with pytest.raises(keyfold.MessageContextError, match="of cluster acme"):
            _ = Card.objects.get(pk=one.pk).number
    assert Card.objects.get(pk=two.pk).number == "n"


def test_what_is_no_message_fails_its_own_row_alone() -> None:
    """Text and numbers, which SQLite takes in any column, cost no memory and spoil no other row."""
    one, two = (Card.objects.create(organization="acme", number="n") for _ in range(2))
    raw("UPDATE shop_card SET number = 'text' WHERE id = %s", key_of(one))
    found = {card.pk: card for card in Card.objects.all()}
    assert found[two.pk].number == "n"
    with pytest.raises(keyfold.MessageInvalidError):
        _ = found[one.pk].number
    assert not Card._meta.get_field("number").from_db_value(1 << 60).message


def test_rows_that_the_database_numbers() -> None:
    """A first value is not bound to a number that is not known yet, but the next one is."""
    for name in ("a", "b"):
        Ticket.objects.create(organization="acme", slug=name, note=name, seat=name)
    copying = (
        "UPDATE shop_ticket SET {0} = (SELECT {0} FROM shop_ticket WHERE slug = 'b') "
        "WHERE slug = 'a'"
    )
    raw(copying.format("note"))
    assert Ticket.objects.get(slug="a").note == "b"  # as the page says
    raw(copying.format("seat"))
    with pytest.raises(keyfold.MessageContextError):
        _ = Ticket.objects.get(slug="a").seat
    for ticket in Ticket.objects.all():
        ticket.note = f"{ticket.slug} again"
        ticket.save(update_fields=["note"])
    raw(copying.format("note"))
    with pytest.raises(keyfold.MessageContextError):
        _ = Ticket.objects.get(slug="a").note


def test_a_row_that_moves_takes_its_values_along(place: Place) -> None:
    """A change of the tenant encrypts for the new one, or fails whole if the old one refuses."""
    Card.objects.create(organization="acme", number=SECRET, details={"a": 1})
    card = Card.objects.get()
    card.organization = "globex"
    assert card.number == SECRET
    card.save()
    place.revoke("acme")
    card = Card.objects.get()
    assert (card.number, card.details) == (SECRET, {"a": 1})
    place.revoke("globex")
    place.client.restore("acme")
    before = raw("SELECT number, organization FROM shop_card")
    card = Card.objects.get()
    card.organization = "acme"
    with pytest.raises(keyfold.RevokedError, match="cluster globex"):
        card.save()
    assert raw("SELECT number, organization FROM shop_card") == before


def test_a_row_does_not_move_without_its_values() -> None:
    """A save of the tenant alone is refused, since the values that it leaves would not open."""
    Card.objects.create(organization="acme", number=SECRET)
    for card in (Card.objects.get(), Card.objects.only("id", "organization").get()):
        card.organization = "globex"
        with pytest.raises(EncryptedColumnError, match=r"without its value of shop\.Card\.number"):
            card.save(update_fields=["organization"])
        card.organization = "acme"
        card.save(update_fields=["organization"])
    card = Card.objects.only("id", "organization").get()
    card.organization = "globex"
    with pytest.raises(EncryptedColumnError):
        card.save()
    card.save(update_fields=["organization", "number"])
    assert Card.objects.get(organization="globex").number == SECRET


def test_a_copy_of_a_row_has_values_of_its_own() -> None:
    """Django's way to copy a row encrypts its values for the copy."""
    Card.objects.create(organization="acme", number=SECRET)
    card = Card.objects.get()
    card.pk = uuid.uuid4()
    card._state.adding = True
    card.save()
    assert [card.number for card in Card.objects.all()] == [SECRET] * 2


def test_renamed_columns_say_what_they_were() -> None:
    """After a rename, `bound_as` opens what was stored before."""
    Card.objects.create(organization="acme", number=SECRET)

    assert Plastic.objects.get().digits == SECRET


# What is refused


def test_values_without_their_row_are_refused() -> None:
    """What goes past `pre_save` never stores a plain value."""
    card = Card.objects.create(organization="acme", number="one", picture=b"p")
    card.number, card.picture = SECRET, SECRET.encode()
    before = raw("SELECT number, picture FROM shop_card")
    attempts: tuple[Callable[[], Any], ...] = (
        lambda: Card.objects.update(number=SECRET),
        lambda: Card.objects.update(picture=SECRET.encode()),
        lambda: Card.objects.update(details={"a": SECRET}),
        lambda: Card.objects.update(number=models.Value(SECRET)),
        lambda: Card.objects.bulk_update([card], ["number"]),
        lambda: Card.objects.bulk_update([card], ["picture"]),
        lambda: card.save_base(raw=True),
        lambda: serialize("json", Card.objects.all()),
    )
    for attempt in attempts:
        with pytest.raises(EncryptedColumnError) as caught, transaction.atomic(shop.Router.alias):
            attempt()
        assert SECRET not in str(caught.value)
    assert raw("SELECT number, picture FROM shop_card") == before
    assert Ticket.objects.update(note=None) == 0


def test_a_conflict_does_not_part_a_row_from_what_its_values_are_bound_to() -> None:
    """An upsert is refused if the row that is there would keep its tenant, or its value, alone."""
    card = Card.objects.create(organization="acme", number="one")
    other = Card(id=card.id, organization="globex", number="two")
    values = ["number", "picture", "details", "note"]

    def upsert(*fields: str) -> Any:
        with transaction.atomic(shop.Router.alias):
            return Card.objects.bulk_create(
                [other], update_conflicts=True, update_fields=fields, unique_fields=["id"]
            )

    for fields in (["number"], ["organization"], ["organization", "number"]):
        with pytest.raises(EncryptedColumnError, match="use update_or_create"):
            upsert(*fields)
    assert Card.objects.get().number == "one"
    upsert("organization", *values)
    assert Card.objects.get().number == "two"


def test_an_upsert_of_a_row_that_the_database_numbers() -> None:
    """A value that is bound to no number opens under the one that the row has already."""
    Account.objects.bulk_create([Account(id=7, organization="acme")])
    Invoice.objects.bulk_create([Invoice(id=3, account_id=7, total="one")])
    options = {"update_conflicts": True, "update_fields": ["total", "account"]}
    Invoice.objects.bulk_create(
        [Invoice(id=3, account_id=7, total="two")], unique_fields=["id"], **options
    )
    assert Invoice.objects.get().total == "two"


def test_a_text_without_bytes_is_refused_and_not_shown() -> None:
    """Python's own error would hold the whole text."""
    with pytest.raises(EncryptedColumnError, match="surrogate") as caught:
        Card(organization="acme", number=SECRET + "\ud800")
    assert caught.value.__context__ is None


def test_nothing_shows_or_pickles_a_plaintext() -> None:
    """Neither repr nor pickle has the value; a pickled row opens again, and copies do."""
    card = Card(organization="acme", number=SECRET)
    with pytest.raises(EncryptedColumnError, match="store it first"):
        pickle.dumps(card)
    card.save()
    card = Card.objects.get()
    assert card.number == SECRET
    assert SECRET not in repr(vars(card))
    pickled = pickle.dumps(card)
    assert SECRET.encode() not in pickled
    again = pickle.loads(pickled)
    again.organization = "globex"
    again.save()
    assert Card.objects.get().number == SECRET
    assert copy.copy(card).number == copy.deepcopy(card).number == SECRET


def test_a_setting_that_is_wrong_says_what_it_must_be() -> None:
    """A missing or other setting is told at the first use."""
    for path in (None, "shop.models.Card", 7):
        with (
            override_settings(KEYFOLD_TENANTS=path),
            pytest.raises(ImproperlyConfigured, match="KEYFOLD_TENANTS must be the path"),
        ):
            Card.objects.create(organization="acme", number=SECRET)


# Forms and the admin


def test_forms_show_and_store_values() -> None:
    """A form shows the plaintext in a field of Django's, checks it, and stores what was entered."""
    card = Card.objects.create(organization="acme", number="one", details={"a": 1})
    form_of = modelform_factory(Card, fields=["organization", "number", "details", "note"])
    assert form_of(instance=card).initial["number"] == "one"
    entered = {"organization": "acme", "number": "two", "details": '{"a": 2}', "note": ""}
    form = form_of(entered, instance=card)
    assert form.is_valid(), form.errors
    form.save()
    card = Card.objects.get()
    assert (card.number, card.details) == ("two", {"a": 2})
    assert not form_of({**entered, "number": "4" * 31}).is_valid()


def test_the_admin_lists_and_changes_rows(place: Place) -> None:
    """The admin's list opens its rows with one call for each tenant, and its form stores."""
    tenants(place)
    for row in range(20):
        Card.objects.create(organization=("acme", "globex")[row % 2], number=f"no. {row}")
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root", password="root"))
    place.client.calls.clear()
    page = client.get("/admin/shop/card/").content.decode()
    assert all(f"no. {row}<" in page for row in range(20))
    assert place.client.calls.total() == 2
    card = Card.objects.filter(organization="acme")[0]
    entered = {"organization": "globex", "number": "changed", "note": "", "details": "null"}
    done = client.post(
        f"/admin/shop/card/{card.pk}/change/", {**entered, "id": str(card.pk)}, follow=True
    )
    assert "was changed successfully" in done.content.decode()
    assert Card.objects.get(pk=card.pk).number == "changed"


# Bad days


def test_one_revoked_customer_leaves_the_others(place: Place) -> None:
    """A page with a revoked customer's row shows the others; that row says whose it is."""
    for name in ("acme", "globex"):
        Card.objects.create(organization=name, number=name)
    assert Card.objects.get(organization="globex").number == "globex"
    place.revoke("globex")
    rows = {card.organization: card for card in Card.objects.all()}
    with pytest.raises(keyfold.RevokedError) as caught:
        _ = rows["globex"].number
    assert rows["acme"].number == "acme"
    assert caught.value.message.startswith("column shop_card.number of cluster globex: ")
    facts = ("cluster", "table", "column")
    assert [caught.value.metadata[fact] for fact in facts] == ["globex", "shop_card", "number"]
    with pytest.raises(keyfold.RevokedError):
        Card.objects.create(organization="globex", number="n")
    assert Card.objects.count() == 2
    # A row of such a customer can still be stored as it is, and be deleted.
    row = Card.objects.get(organization="globex")
    row.note = None
    row.save()
    row.delete()


def test_a_deleted_customers_column(place: Place) -> None:
    """Once a customer is deleted, its rows say that they do not open, and can be removed."""
    for name in ("acme", "globex"):
        Card.objects.create(organization=name, number=name)
    place.delete("globex")
    with pytest.raises(keyfold.KeyfoldError, match="cluster globex") as caught:
        _ = Card.objects.get(organization="globex").number
    assert not isinstance(caught.value, keyfold.UnavailableError | keyfold.MessageInvalidError)
    assert Card.objects.get(organization="acme").number == "acme"
    assert Card.objects.filter(organization="globex").delete()[0] == 1


def test_without_a_server_nothing_is_stored(place: Place) -> None:
    """An outage is told as one, and leaves the rows as they were."""
    tenants(place)
    Card.objects.create(organization="acme", number=SECRET)
    place.server.wait(place.server.stop())
    tenants(place)
    with pytest.raises(keyfold.UnavailableError, match=r"shop_card\.number of cluster acme"):
        _ = Card.objects.get().number
    with pytest.raises(keyfold.UnavailableError):
        Card.objects.create(organization="acme", number="two")
    with pytest.raises(CommandError, match=r"UNAVAILABLE.*run it again"):
        call_command("keyfold_rekey", "shop.Card", database=shop.Router.alias)
    assert Card.objects.count() == 1


def test_a_value_that_was_spoilt() -> None:
    """What is no message is told as that, without what it is."""
    Card.objects.create(organization="acme", number=SECRET)
    raw("UPDATE shop_card SET number = %s", connection.Database.Binary(SECRET.encode()))
    with pytest.raises(keyfold.NotAMessageError) as caught:
        _ = Card.objects.get().number
    assert SECRET not in str(caught.value)


def test_threads_share_tenants(place: Place, database: str) -> None:
    """Threads with connections of their own write and read; a revocation reaches each."""

    def use(number: int) -> bool:
        try:
            name = ("acme", "globex")[number % 2]
            card = Card.objects.create(organization=name, number=f"{number}")
            return bool(Card.objects.get(pk=card.pk).number == f"{number}")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2 if database == "default" else 8) as pool:
        assert all(pool.map(use, range(24)))
        place.revoke("globex")
        for refused in [pool.submit(use, number) for number in (1, 3, 5)]:
            assert isinstance(refused.exception(), keyfold.RevokedError)


# What it costs


def test_a_thousand_rows_are_one_call(place: Place) -> None:
    """A page of 1,000 rows, each under a data key of its own, opens with one call."""
    writing = tenants(place)
    writing._envelopes["acme", "shop_card"] = keyfold.Envelope(
        place.client, "acme", "eu", context={"table": "shop_card"}, max_messages=1
    )
    Card.objects.bulk_create(Card(organization="acme", number=f"{row}") for row in range(1_000))
    assert place.client.calls == {"generate_data_key": 1_000}

    def use() -> None:
        numbers = [card.number for card in Card.objects.all()]
        assert sorted(map(int, numbers)) == list(range(1_000))

    place.client.calls.clear()
    use()
    assert place.client.calls == {"batch_unwrap": 1}
    tenants(place, cache=place.cache)
    place.until_no_call(use, most=1)


def test_paths_through_other_tables_open_together(
    place: Place, django_queries: Callable[[], int]
) -> None:
    """With `select_related`, rows whose tenant is another table's take one call and one query."""
    account = Account.objects.create(organization="acme")
    Invoice.objects.bulk_create(Invoice(account=account, total=f"{row}") for row in range(20))
    tenants(place)
    place.client.calls.clear()
    before = django_queries()
    rows = list(Invoice.objects.select_related("account"))
    assert len([row.total for row in rows]) == 20
    assert django_queries() - before == 1
    assert place.client.calls.total() == 1


@pytest.fixture
def django_queries(database: str) -> Iterator[Callable[[], int]]:
    """Counts the queries of the test's database."""
    used = connections[database]
    used.force_debug_cursor = True
    yield lambda: len(used.queries_log)
    used.force_debug_cursor = False


def test_open_rows_opens_rows_of_several_queries(place: Place) -> None:
    """Rows of plain managers open with one call, and later reads make none."""
    account = Account.objects.create(organization="acme")
    invoice = Invoice.objects.create(account=account, total="1")
    for row in range(5):
        Reminder.objects.create(invoice=invoice, text=f"{row}")
    tenants(place)
    place.client.calls.clear()
    rows = [*Reminder.objects.all(), invoice, Invoice.objects.get()]
    open_rows(rows)
    assert place.client.calls.total() <= 2
    calls = place.client.calls.total()
    assert [row.text for row in rows[:5]] == [f"{row}" for row in range(5)]
    assert rows[6].total == "1"
    assert place.client.calls.total() == calls


# Moving to newer keys


def command(*arguments: str, **options: Any) -> tuple[str, str]:
    """Runs `manage.py keyfold_rekey`, and returns what it writes."""
    out, err = io.StringIO(), io.StringIO()
    options = {"database": shop.Router.alias, "stdout": out, "stderr": err, **options}
    try:
        call_command("keyfold_rekey", *arguments, **options)
    except CommandError as error:
        err.write(f"{error}\n")
    return out.getvalue(), err.getvalue()


def test_rekey_moves_every_model(place: Place) -> None:
    """After a run the old generation can be retired; the next run moves nothing."""
    account = Account.objects.create(organization="acme")
    invoice = Invoice.objects.create(account=account, total="1")
    Reminder.objects.create(invoice=invoice, text="t")
    Vip.objects.create(organization="acme", note="hi", seat="4b", lounge="red")
    Card.objects.bulk_create(Card(organization="acme", number=f"{row}") for row in range(25))
    place.rotate("acme")
    out, err = command(batch=10, verbosity=2)
    assert err == ""
    assert "shop.Card: 10 of 25 rows: 10 values moved, 0 current" in out
    assert "shop.Card: 25 of 25 rows: 25 values moved, 0 current, 0 overtaken, 0 failed" in out
    again, _ = command()
    assert all(": 0 values moved" in line for line in again.splitlines())
    assert len(again.splitlines()) == 5
    place.client.retire_generation("acme", "eu", 1)
    assert sorted(int(card.number) for card in Card.objects.all()) == list(range(25))
    vip = Vip.objects.get()
    assert (vip.note, vip.seat, vip.lounge) == ("hi", "4b", "red")
    assert (Invoice.objects.get().total, Reminder.objects.get().text) == ("1", "t")


def test_rekey_goes_on_after_a_crash(place: Place, tmp_path: Path) -> None:
    """A checkpoint says where to go on; a run that ends removes it."""
    for row in range(9):
        Ticket.objects.create(organization="acme", note=f"{row}")
    place.rotate("acme")
    first = next(rekey(Ticket, using=shop.Router.alias, batch=4))
    assert (first.rows, first.moved) == (4, 4)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_text(json.dumps({"shop.Ticket": first.after[0]}))
    out, _ = command("shop.Ticket", batch=4, checkpoint=checkpoint)
    assert out.startswith("shop.Ticket: 5 of 9 rows: 5 values moved")
    assert not checkpoint.exists()
    Card.objects.create(organization="acme", number="n")
    place.server.wait(place.server.stop())
    _, err = command("shop.Ticket", checkpoint=checkpoint)
    assert "UNAVAILABLE" in err
    checkpoint.write_text("nonsense")
    assert "is no checkpoint" in command(checkpoint=checkpoint)[1]


def test_rekey_keeps_a_checkpoint_of_each_batch(place: Place, tmp_path: Path) -> None:
    """After each batch the file has the last row that is done, for any kind of primary key."""
    rows = [Card.objects.create(organization="acme", number=f"{row}") for row in range(4)]
    checkpoint = tmp_path / "checkpoint"
    made = keys.current[0]
    moving = made.rekey_many
    kept: list[Any] = []

    def outage(*arguments: Any) -> Any:
        if checkpoint.exists():
            kept.append(json.loads(checkpoint.read_text())["shop.Card"])
            raise keyfold.UnavailableError("gone")
        return moving(*arguments)

    made.rekey_many = outage  # type: ignore[assignment]
    _, err = command("shop.Card", batch=2, checkpoint=checkpoint)
    assert "run it again to go on" in err
    del made.rekey_many
    out, err = command("shop.Card", batch=2, checkpoint=checkpoint)
    assert (out[:27], err) == ("shop.Card: 2 of 4 rows: 0 v", "")
    assert kept == [str(sorted(row.pk for row in rows)[1])]


def test_rekey_leaves_what_others_write(place: Place) -> None:
    """A value that somebody sets while it is moved stays as it was set."""
    rows = [Ticket.objects.create(organization="acme", note=f"{row}") for row in range(3)]
    place.rotate("acme")
    made = keys.current[0]
    moving = made.rekey_many

    def overtaken(*arguments: Any) -> Any:
        ticket = Ticket.objects.get(pk=rows[1].pk)
        ticket.note = "newer"
        ticket.save()
        return moving(*arguments)

    made.rekey_many = overtaken  # type: ignore[assignment]
    (step,) = rekey(Ticket, using=shop.Router.alias)
    assert (step.moved, step.overtaken) == (2, 1)
    del made.rekey_many
    assert [ticket.note for ticket in Ticket.objects.order_by("pk")] == ["0", "newer", "2"]


def test_rekey_tells_which_rows_it_left(place: Place) -> None:
    """Rows of a customer that refuses stay and are named; all others move, and the status is 1."""
    for row in range(4):
        Ticket.objects.create(organization=("acme", "globex")[row % 2], note="x")
    orphan = Ticket.objects.create(organization="acme", note="x")
    Ticket.objects.filter(pk=orphan.pk).update(organization="")
    place.rotate("acme")
    place.revoke("globex")
    out, err = command("shop.Ticket")
    assert "5 of 5 rows: 2 values moved, 0 current, 0 overtaken, 3 failed" in out
    assert err.count("REVOKED: column shop_ticket.note of cluster globex") == 2
    assert f"shop.Ticket {orphan.pk}: ENCRYPTED_COLUMN: a row of shop_ticket has no tenant" in err
    assert err.endswith("3 values were not moved\n")


def test_rekey_refuses_names_that_it_cannot_move() -> None:
    """A wrong name, and an app or model without encrypted fields, are mistakes."""
    assert "nope" in command("nope")[1]
    assert "Nope" in command("shop.Nope")[1]
    assert command("auth")[1] == "auth has no encrypted field\n"
    assert command("shop.Account")[1] == "shop.Account has no encrypted field\n"
    assert command(batch=0)[1] == "--batch must be at least 1\n"
    with pytest.raises(EncryptedColumnError, match="Account has no encrypted field"):
        next(rekey(Account))
