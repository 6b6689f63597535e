"""Encrypted columns with the real SQLAlchemy on SQLite and PostgreSQL, and a real Keyfold."""

from __future__ import annotations

import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    load_only,
    make_transient,
    mapped_column,
    sessionmaker,
)

import keyfold
import pages
import postgres
from e2e.server import clean_environment
from in_process import serving
from keyfold.integrations.sqlalchemy import (
    Cell,
    EncryptedColumnError,
    Rekeyed,
    Tenants,
    encrypted,
    open_rows,
    rekey,
)
from tenants import Place

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "sqlalchemy.md"

SECRET = "4111-secret"


class Base(DeclarativeBase):
    """The application's tables."""


class Owned:
    """A mixin: a row of an organization, with an encrypted note."""

    organization: Mapped[str]
    note = encrypted(str, tenant="organization", nullable=True)


class Card(Owned, Base):
    """Rows that the program names."""

    __tablename__ = "cards"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    number = encrypted(str, tenant="organization")
    picture = encrypted(bytes, tenant="organization", nullable=True)
    details = encrypted(dict, tenant="organization", nullable=True)


class Ticket(Owned, Base):
    """Rows that the database numbers."""

    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(default=lambda: uuid.uuid4().hex)
    seat = encrypted(str, tenant="organization", row="slug", nullable=True)


class Vip(Ticket):
    """A table that goes on in another."""

    __tablename__ = "vips"
    id: Mapped[int] = mapped_column(sa.ForeignKey("tickets.id"), primary_key=True)
    lounge = encrypted(str, tenant="organization")


TABLE: Any = Card.__table__


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database with the application's tables."""
    server = name = None
    url: str | sa.URL = f"sqlite:///{tmp_path}/app.db"
    if request.param == "postgresql":
        server = postgres.shared("15")
        name = server.create()
        url = sa.make_url(server.url(name)).set(
            drivername="postgresql+psycopg", password=server.password
        )
    made = sa.create_engine(url)
    Base.metadata.create_all(made)
    yield made
    made.dispose()
    if server is not None and name is not None:
        server.drop(name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server with the clusters acme and globex."""
    (folder := tmp_path / "server").mkdir()
    with serving(folder) as server, Place(server) as made:
        yield made


@pytest.fixture
def sessions(engine: sa.Engine, place: Place) -> sessionmaker[Session]:
    """Sessions that encrypt, with a cache that serves."""
    place.warm()
    place.client.calls.clear()
    return sessionmaker(engine, info=Tenants(place.client, "eu", cache=place.cache).info)


def add(sessions: sessionmaker[Session], *rows: Any) -> None:
    """Stores rows."""
    with sessions.begin() as session:
        session.add_all(rows)


def raw(sessions: sessionmaker[Session], statement: str, **values: Any) -> Any:
    """Runs a statement behind the mapper's back."""
    with sessions.begin() as session:
        done: Any = session.execute(sa.text(statement), values)
        return done.all() if done.returns_rows else None


def only(sessions: sessionmaker[Session], kind: type[Any] = Card, **having: Any) -> Any:
    """Returns the one row, which outlives its session."""
    with sessions() as session:
        return session.scalars(sa.select(kind).filter_by(**having)).one()


# Storing and reading


def test_the_page_runs(place: Place, tmp_path: Path) -> None:
    """The lines of docs/integrations/sqlalchemy.md print what the page shows."""
    pages.assert_runs(
        PAGE.read_text(encoding="utf-8"),
        folder=tmp_path,
        environment=clean_environment(),
        here={"127.0.0.1:7443": place.server.target, '"prod"': '"acme"'},
    )


def test_values_come_back_and_lie_encrypted(sessions: sessionmaker[Session]) -> None:
    """Text, bytes and JSON come back as they were; the database has none of their bytes."""
    details = {"expires": "2031-07", "limits": [1, 2.5, None], "ünicode": SECRET}
    add(sessions, Card(organization="acme", number=SECRET, picture=b"\0\xff", details=details))
    card = only(sessions)
    assert (card.number, card.picture, card.details) == (SECRET, b"\0\xff", details)
    ((number, picture, stored),) = raw(sessions, "SELECT number, picture, details FROM cards")
    for message in (number, picture, stored):
        assert bytes(message).startswith(b"KFM")
        assert SECRET.encode() not in bytes(message)


def test_none_is_null(sessions: sessionmaker[Session]) -> None:
    """None is stored as NULL, makes no call, and can be asked for."""
    add(sessions, Ticket(organization="acme", note=None))
    assert raw(sessions, "SELECT note, seat FROM tickets") == [(None, None)]
    assert not sum(add_calls(sessions).values())
    assert only(sessions, Ticket, note=None).note is None
    with sessions() as session:
        for question, count in (
            (Ticket.note.is_(None), 1),
            (Ticket.note.is_not(None), 0),
            (Ticket.note == None, 1),  # noqa: E711  how SQLAlchemy asks
        ):
            assert len(session.scalars(sa.select(Ticket).where(question)).all()) == count
    with pytest.raises(sa.exc.IntegrityError):
        add(sessions, Card(organization="acme", number=None))


def add_calls(sessions: sessionmaker[Session]) -> Any:
    """Returns the calls that the sessions' client has made."""
    return sessions.kw["info"]["keyfold"]._client.calls


def test_each_row_is_under_its_own_tenants_key(sessions: sessionmaker[Session]) -> None:
    """One flush encrypts rows of several tenants, each with its own: no other opens them."""
    add(
        sessions,
        *(Card(organization=name, number=f"{name} {SECRET}") for name in ("acme", "globex")),
    )
    assert add_calls(sessions) == {"generate_data_key": 2}
    place_of = {"acme": "globex", "globex": "acme"}
    for name in place_of:
        assert only(sessions, organization=name).number == f"{name} {SECRET}"
    raw(sessions, "UPDATE cards SET organization = 'x' WHERE organization = 'acme'")
    raw(sessions, "UPDATE cards SET organization = 'acme' WHERE organization = 'globex'")
    with pytest.raises(keyfold.MessageContextError, match=r"column cards\.number of cluster acme"):
        _ = only(sessions, organization="acme").number


def test_a_row_without_a_tenant_is_not_stored(sessions: sessionmaker[Session]) -> None:
    """Where nobody can tell whose key encrypts, nothing is stored."""
    for tenant in (None, ""):
        with pytest.raises(EncryptedColumnError, match="has no organization"):
            add(sessions, Card(organization=tenant, number=SECRET))
    assert raw(sessions, "SELECT * FROM cards") == []


def test_tables_that_go_on_in_others(sessions: sessionmaker[Session]) -> None:
    """Attributes of mixins and of derived tables work like others."""
    add(sessions, Vip(organization="acme", note="hi", seat="4b", lounge="red"))
    vip = only(sessions, Vip)
    assert (vip.note, vip.seat, vip.lounge) == ("hi", "4b", "red")
    with sessions.begin() as session:
        session.scalars(sa.select(Ticket)).one().note = "ho"
    assert only(sessions, Ticket).note == "ho"


def test_changes_are_stored_and_others_leave_the_value(sessions: sessionmaker[Session]) -> None:
    """A set attribute is encrypted anew; a change of another column writes no value again."""
    add(sessions, Card(organization="acme", number="one", note="kept"))
    before = raw(sessions, "SELECT number, note FROM cards")[0]
    with sessions.begin() as session:
        card = session.scalars(sa.select(Card)).one()
        card.number = "two"
        session.flush()
        assert card.number == "two"
        card.note = None
    after = raw(sessions, "SELECT number, note FROM cards")[0]
    assert bytes(after[0]) != bytes(before[0])
    assert after[1] is None
    assert only(sessions).number == "two"


# Whose value it is


def test_a_value_that_was_copied_does_not_open(sessions: sessionmaker[Session]) -> None:
    """In another row, column, table or tenant, a value of somewhere else is refused."""
    one, two = uuid.uuid4(), uuid.uuid4()
    add(
        sessions,
        Card(id=one, organization="acme", number="one", note="note"),
        Card(id=two, organization="acme", number="two", note="note"),
        Ticket(organization="acme", note="note", slug="s"),
    )
    for copying in (
        "UPDATE cards SET number = (SELECT number FROM cards WHERE id = :two) WHERE id = :one",
        "UPDATE cards SET number = (SELECT note FROM cards WHERE id = :one) WHERE id = :one",
        "UPDATE cards SET number = (SELECT note FROM tickets) WHERE id = :one",
    ):
        with sessions.begin() as session:
            names = {"one": one, "two": two}
            typed = [sa.bindparam(name, type_=sa.Uuid()) for name in names if f":{name}" in copying]
            used = {part.key: names[str(part.key)] for part in typed}
            session.execute(sa.text(copying).bindparams(*typed), used)
        with pytest.raises(keyfold.MessageContextError, match=r"cards\.number of cluster acme"):
            _ = only(sessions, id=one).number
    assert only(sessions, id=two).number == "two"


def test_rows_that_the_database_numbers(sessions: sessionmaker[Session]) -> None:
    """A first value is not bound to a number that is not known yet, but the next one is."""
    add(sessions, Ticket(organization="acme", note="a", slug="a", seat="1"))
    add(sessions, Ticket(organization="acme", note="b", slug="b", seat="2"))
    copying = "UPDATE tickets SET {0} = (SELECT {0} FROM tickets WHERE slug = 'b') WHERE slug = 'a'"
    raw(sessions, copying.format("note"))
    assert only(sessions, Ticket, slug="a").note == "b"  # as the page says
    raw(sessions, copying.format("seat"))
    with pytest.raises(keyfold.MessageContextError):
        _ = only(sessions, Ticket, slug="a").seat
    with sessions.begin() as session:
        for ticket in session.scalars(sa.select(Ticket)):
            ticket.note = f"{ticket.slug} again"
    raw(sessions, copying.format("note"))
    with pytest.raises(keyfold.MessageContextError):
        _ = only(sessions, Ticket, slug="a").note


def test_a_row_that_moves_takes_its_values_along(
    sessions: sessionmaker[Session], place: Place
) -> None:
    """A change of the tenant encrypts for the new one, or fails whole if the old one refuses."""
    add(sessions, Card(organization="acme", number=SECRET, details={"a": 1}))
    with sessions.begin() as session:
        session.scalars(sa.select(Card)).one().organization = "globex"
    place.revoke("acme")
    card = only(sessions)
    assert (card.number, card.details, card.note) == (SECRET, {"a": 1}, None)
    place.revoke("globex")
    place.client.restore("acme")
    before = raw(sessions, "SELECT number, organization FROM cards")
    with pytest.raises(keyfold.RevokedError, match="cluster globex"), sessions.begin() as session:
        session.scalars(sa.select(Card)).one().organization = "acme"
    assert raw(sessions, "SELECT number, organization FROM cards") == before


def test_a_row_that_moves_without_having_been_read(sessions: sessionmaker[Session]) -> None:
    """The old tenant is known even of an object that was expired, or read without its values."""
    add(sessions, Card(organization="acme", number=SECRET))
    with sessions.begin() as session:
        card = session.scalars(sa.select(Card)).one()
        session.expire(card)
        card.organization = "globex"
    with sessions.begin() as session:
        options = sa.orm.load_only(Card.id)
        card = session.scalars(sa.select(Card).options(options)).one()
        card.organization = "acme"
        session.flush()
        card.organization = "globex"
    assert only(sessions).number == SECRET


def test_a_new_object_with_anothers_value(sessions: sessionmaker[Session]) -> None:
    """An object that takes over the encrypted value of another has it encrypted for its own row."""
    add(sessions, Card(organization="acme", number=SECRET))
    with sessions.begin() as session:
        card = session.scalars(sa.select(Card)).one()
        session.expunge(card)
        sa.orm.make_transient(card)
        card.id = uuid.uuid4()
        session.add(card)
    with sessions() as session:
        assert [card.number for card in session.scalars(sa.select(Card))] == [SECRET] * 2


def test_renamed_columns_say_what_they_were(
    sessions: sessionmaker[Session], engine: sa.Engine
) -> None:
    """After a table is renamed, `bound_as` opens what was stored before."""
    add(sessions, Card(organization="acme", number=SECRET))

    class Renamed(DeclarativeBase):
        pass

    class Plastic(Renamed):
        __tablename__ = "plastics"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        organization: Mapped[str]
        digits = encrypted(str, tenant="organization", bound_as="cards.number")

    raw(sessions, "ALTER TABLE cards RENAME TO plastics")
    raw(sessions, "ALTER TABLE plastics RENAME COLUMN number TO digits")
    assert only(sessions, Plastic).digits == SECRET
    raw(sessions, "DROP TABLE plastics")


# What is refused


@pytest.mark.parametrize(
    "question",
    [
        lambda: Card.number == SECRET,
        lambda: Card.number != SECRET,
        lambda: SECRET == Card.number,  # noqa: SIM300
        lambda: Card.number.in_([SECRET]),
        lambda: Card.number.like("4%"),
        lambda: Card.number < SECRET,
        lambda: sa.select(Card).order_by(Card.number.desc()),
        lambda: Card.number + "x",
        lambda: sa.select(Card).filter_by(number=SECRET),
        lambda: sa.select(TABLE).where(TABLE.c.number == b"x"),
    ],
)
def test_questions_about_the_value_are_refused(question: Any) -> None:
    """A query that could never find anything is an error that says so."""
    with pytest.raises(EncryptedColumnError, match=r"cards\.number is encrypted") as caught:
        question()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [SECRET, SECRET.encode()])
def test_values_without_their_row_are_refused(
    sessions: sessionmaker[Session], value: str | bytes
) -> None:
    """What goes past the mapper's hooks never stores a plain value, whatever its type."""
    row = {"organization": "acme", "id": uuid.uuid4()}
    plain = Card(**row)
    plain.__dict__["_number_cell"] = Cell.of(value)
    statements: tuple[Callable[[Session], Any], ...] = (
        lambda session: session.execute(sa.insert(Card).values(number=value, **row)),
        lambda session: session.execute(sa.insert(Card), [{"_number_cell": value, **row}]),
        lambda session: session.execute(sa.insert(Card), [{"number": value, **row}]),
        lambda session: session.execute(sa.insert(Card), {"number": value, **row}),
        lambda session: session.execute(sa.update(Card), [{"number": value, **row}]),
        lambda session: session.execute(sa.insert(TABLE), [{"number": value, **row}]),
        lambda session: session.bulk_insert_mappings(Card, [{"_number_cell": value, **row}]),
        lambda session: session.execute(sa.update(Card).values(number=value)),
        lambda session: session.bulk_save_objects([plain]),
    )
    for statement in statements:
        with pytest.raises(EncryptedColumnError) as caught, sessions.begin() as session:
            statement(session)
        assert SECRET not in str(caught.value)
    assert raw(sessions, "SELECT * FROM cards") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("number", 4111), ("number", b"4"), ("picture", "4"), ("details", {"a": {SECRET}})],
)
def test_values_of_another_kind_are_refused_when_set(name: str, value: Any) -> None:
    """The line that sets a wrong value gets the error, which names the attribute alone."""
    with pytest.raises(EncryptedColumnError, match=f"Card.{name} holds") as caught:
        Card(**{name: value})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", [str, dict])
def test_what_no_column_can_hold_shows_no_plaintext(
    sessions: sessionmaker[Session], kind: Any
) -> None:
    """Texts without bytes, and values of another kind of column, fail with an error of Keyfold.

    Python's own errors hold the whole value, so they must not be in the chain.
    """

    class Again(DeclarativeBase): ...

    class Changed(Again):
        __tablename__ = "cards"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        organization: Mapped[str]
        picture = encrypted(kind, tenant="organization")

    with sessions.begin() as session:
        session.add(Card(organization="acme", number="1", picture=b"[\xff" + SECRET.encode()))
    with (
        sessions() as session,
        pytest.raises(EncryptedColumnError, match=r"cards\.picture") as stored,
    ):
        _ = session.scalars(sa.select(Changed)).one().picture
    with pytest.raises(EncryptedColumnError, match="surrogate") as given:
        Card(organization="acme", number=SECRET + "\ud800")
    for error in (stored.value, given.value):
        assert error.__cause__ is None
        assert error.__context__ is None


def test_a_copy_of_what_was_read_in_part_is_not_lost(sessions: sessionmaker[Session]) -> None:
    """A copy whose origin nobody knows is stored only if it opens where it goes."""
    with sessions.begin() as session:
        session.add(Card(organization="acme", number=SECRET))
    for moved in (False, True):
        with sessions() as session:
            card = session.scalars(sa.select(Card).options(load_only(Card.number))).one()
            session.expunge(card)
            make_transient(card)
            card.id, card.organization = uuid.uuid4(), "globex" if moved else "acme"
            session.add(card)
            with pytest.raises(keyfold.MessageContextError):
                session.commit()
    assert len(raw(sessions, "SELECT * FROM cards")) == 1


def test_a_tenant_that_cannot_be_one_leaves_the_rows_beside_it(
    sessions: sessionmaker[Session],
) -> None:
    """A row whose tenant somebody spoilt fails when it is read, and no other row does."""
    with sessions.begin() as session:
        session.add_all([Card(organization="acme", number=SECRET) for _ in range(3)])
        session.flush()
        spoilt = session.scalars(sa.select(Card.id)).first()
        session.execute(sa.update(Card).where(Card.id == spoilt).values(organization="x" * 200))
    with sessions() as session:
        for card in sorted(session.scalars(sa.select(Card)), key=lambda card: card.id == spoilt):
            if card.id != spoilt:
                assert card.number == SECRET
            else:
                with pytest.raises(keyfold.InvalidNameError) as caught:
                    _ = card.number
                assert str(caught.value).count("cards.number") == 1


def test_sessions_without_tenants_say_what_to_do(engine: sa.Engine) -> None:
    """A session that was not told whose keys encrypt stores nothing."""
    with (
        pytest.raises(EncryptedColumnError, match=r"info=tenants\.info"),
        Session(engine) as session,
        session.begin(),
    ):
        session.add(Card(organization="acme", number=SECRET))


def test_declarations_are_checked() -> None:
    """A kind or a name that cannot be is refused where it is written."""
    with pytest.raises(TypeError, match="hold str, bytes, dict, list or object"):
        encrypted(int, tenant="organization")
    with pytest.raises(ValueError, match=r"TABLE\.COLUMN"):
        encrypted(str, tenant="organization", bound_as="cards")


def test_nothing_shows_or_pickles_a_plaintext(sessions: sessionmaker[Session]) -> None:
    """Neither repr nor pickle has the value; a pickled row opens in a session again."""
    card = Card(organization="acme", number=SECRET)
    with pytest.raises(EncryptedColumnError, match="store it first"):
        pickle.dumps(card)
    add(sessions, card)
    with sessions() as session:
        card = session.scalars(sa.select(Card)).one()
        assert card.number == SECRET
        assert SECRET not in repr(vars(card))
        pickled = pickle.dumps(card)
        assert SECRET.encode() not in pickled
    with sessions() as session:
        again = pickle.loads(pickled)
        session.add(again)
        assert again.number == SECRET


# Bad days


def test_one_revoked_customer_leaves_the_others(
    sessions: sessionmaker[Session], place: Place
) -> None:
    """A page with a revoked customer's row shows the others; that row says whose it is."""
    add(sessions, *(Card(organization=name, number=name) for name in ("acme", "globex")))
    assert only(sessions, organization="globex").number == "globex"
    place.revoke("globex")
    with sessions() as session:
        rows = {card.organization: card for card in session.scalars(sa.select(Card))}
        with pytest.raises(keyfold.RevokedError) as caught:
            _ = rows["globex"].number
        assert rows["acme"].number == "acme"
    assert caught.value.message.startswith("column cards.number of cluster globex: ")
    facts = ("cluster", "table", "column")
    assert [caught.value.metadata[fact] for fact in facts] == ["globex", "cards", "number"]
    with pytest.raises(keyfold.RevokedError, match="cluster globex"):
        add(sessions, Card(organization="acme", number="a"), Card(organization="globex", number=""))
    assert raw(sessions, "SELECT count(*) FROM cards") == [(2,)]
    # A row of such a customer can still be changed elsewhere, and be deleted.
    with sessions.begin() as session:
        session.scalars(sa.select(Card).filter_by(organization="globex")).one().note = None
        session.delete(session.scalars(sa.select(Card).filter_by(organization="globex")).one())


def test_a_deleted_customers_column(sessions: sessionmaker[Session], place: Place) -> None:
    """Once a customer is deleted, its rows say that they do not open, and can be removed."""
    add(sessions, *(Card(organization=name, number=name) for name in ("acme", "globex")))
    place.delete("globex")
    with pytest.raises(keyfold.KeyfoldError, match="cluster globex") as caught:
        _ = only(sessions, organization="globex").number
    assert not isinstance(caught.value, keyfold.UnavailableError | keyfold.MessageInvalidError)
    assert only(sessions, organization="acme").number == "acme"
    with sessions.begin() as session:
        session.delete(session.scalars(sa.select(Card).filter_by(organization="globex")).one())


def test_without_a_server_nothing_is_stored(engine: sa.Engine, tmp_path: Path) -> None:
    """An outage is told as one, and leaves the transaction and the rows as they were."""
    (folder := tmp_path / "server").mkdir()
    with serving(folder) as server, Place(server) as place:
        sessions = sessionmaker(engine, info=Tenants(place.client, "eu").info)
        add(sessions, Card(organization="acme", number=SECRET))
        place.server.wait(place.server.stop())
        with pytest.raises(keyfold.UnavailableError, match=r"cards\.number of cluster acme"):
            _ = only(sessions).number
        with pytest.raises(keyfold.UnavailableError), sessions() as session:
            list(rekey(session, Card))
        fresh = sessionmaker(engine, info=Tenants(place.client, "eu").info)
        with pytest.raises(keyfold.UnavailableError):
            add(fresh, Card(organization="acme", number="two"))
        assert raw(sessions, "SELECT count(*) FROM cards") == [(1,)]


def test_a_value_that_was_spoilt(sessions: sessionmaker[Session]) -> None:
    """What is no message, or was changed, is told as that."""
    add(sessions, Card(organization="acme", number=SECRET))
    ((message,),) = raw(sessions, "SELECT number FROM cards")
    for spoilt, kind in (
        (b"", keyfold.NotAMessageError),
        (SECRET.encode(), keyfold.NotAMessageError),
        (bytes(message)[:-1] + b"\0", keyfold.MessageCorruptError),
    ):
        raw(sessions, "UPDATE cards SET number = :spoilt", spoilt=spoilt)
        with pytest.raises(kind) as caught:
            _ = only(sessions).number
        assert SECRET not in str(caught.value)


def test_threads_share_tenants(sessions: sessionmaker[Session], place: Place) -> None:
    """Threads with sessions of their own write and read; a revocation reaches each."""

    def use(number: int) -> bool:
        name = ("acme", "globex")[number % 2]
        row = Card(organization=name, number=f"{number}")
        add(sessions, row)
        return only_number(sessions, number) == f"{number}"

    def only_number(sessions: sessionmaker[Session], number: int) -> str | None:
        with sessions() as session:
            found = [card.number for card in session.scalars(sa.select(Card))]
        return next((one for one in found if one == f"{number}"), None)

    with ThreadPoolExecutor(1 if "sqlite" in str(sessions.kw["bind"].url) else 8) as pool:
        assert all(pool.map(use, range(24)))
        place.revoke("globex")
        for refused in [pool.submit(use, number) for number in range(4)]:
            assert isinstance(refused.exception(), keyfold.RevokedError)


# What it costs


def test_a_thousand_rows_are_one_call(sessions: sessionmaker[Session], place: Place) -> None:
    """A page of 1,000 rows, each under a data key of its own, opens with one call, then none."""
    tenants = Tenants(place.client, "eu", cache=None)
    tenants._envelopes["acme", "cards"] = keyfold.Envelope(
        place.client, "acme", "eu", context={"table": "cards"}, max_messages=1
    )
    writing = sessionmaker(sessions.kw["bind"], info=tenants.info)
    add(writing, *(Card(organization="acme", number=f"{row}") for row in range(1_000)))
    assert place.client.calls == {"generate_data_key": 1_000}

    def use(sessions: sessionmaker[Session]) -> None:
        with sessions() as session:
            numbers = [card.number for card in session.scalars(sa.select(Card))]
        assert sorted(map(int, numbers)) == list(range(1_000))

    place.client.calls.clear()
    use(writing)
    assert place.client.calls == {"batch_unwrap": 1}
    place.until_no_call(lambda: use(sessions), most=1)


def test_storing_rows_takes_one_call_for_each_tenant(
    sessions: sessionmaker[Session], place: Place
) -> None:
    """One data key of a tenant's table serves all rows and columns of a flush."""
    names = ("acme", "globex")
    cards = [Card(organization=names[row % 2], number="n", note="x") for row in range(200)]
    info = Tenants(place.client, "eu").info
    place.client.calls.clear()
    add(sessionmaker(sessions.kw["bind"], info=info), *cards)
    assert place.client.calls == {"generate_data_key": 2}


def test_reading_in_parts_opens_each_part(sessions: sessionmaker[Session]) -> None:
    """Rows that stream in open part by part, and rows that nobody reads cost nothing."""
    add(sessions, *(Card(organization="acme", number=f"{row}") for row in range(30)))
    uncached = sessionmaker(
        sessions.kw["bind"], info=Tenants(sessions.kw["info"]["keyfold"]._client, "eu").info
    )
    add_calls(sessions).clear()
    with uncached() as session:
        for part in session.scalars(sa.select(Card)).partitions(10):
            assert len([card.number for card in part]) == 10
        calls = sum(add_calls(sessions).values())
        assert 1 <= calls <= 3
        session.expunge_all()
        session.scalars(sa.select(Card)).all()
        assert sum(add_calls(sessions).values()) == calls


def test_open_rows_opens_rows_of_several_queries(sessions: sessionmaker[Session]) -> None:
    """Rows that were read one by one open with one call, and later reads make none."""
    ids = [uuid.uuid4() for _ in range(5)]
    add(sessions, *(Card(id=one, organization="acme", number="n", note="x") for one in ids))
    client = sessions.kw["info"]["keyfold"]._client
    uncached = sessionmaker(sessions.kw["bind"], info=Tenants(client, "eu").info)
    with uncached() as session:
        rows = [session.get_one(Card, one) for one in ids]
        client.calls.clear()
        open_rows(rows)
        assert client.calls == {"batch_unwrap": 1}
        assert [(card.number, card.note) for card in rows] == [("n", "x")] * 5
        assert client.calls == {"batch_unwrap": 1}


# Moving to newer keys


def walk(sessions: sessionmaker[Session], kind: type[Any] = Card, **options: Any) -> list[Rekeyed]:
    """Rekeys a whole table."""
    with sessions() as session:
        return list(rekey(session, kind, **options))


def test_rekey_moves_a_table(sessions: sessionmaker[Session], place: Place) -> None:
    """After a walk the old generation can be retired; a second walk moves nothing."""
    rows = [Card(organization="acme", number=f"{row}", note="x") for row in range(25)]
    add(sessions, *rows, Card(organization="globex", number="g"))
    place.rotate("acme")
    place.client.calls.clear()
    done = walk(sessions, batch=10)
    assert [step.rows for step in done] == [10, 10, 6]
    assert sum(step.moved for step in done) == 50
    assert sum(step.current for step in done) == 1
    assert place.client.calls["batch_rewrap"] <= 7
    assert place.client.calls["unwrap"] == place.client.calls["batch_unwrap"] == 0
    assert sum(step.moved for step in walk(sessions)) == 0
    place.client.retire_generation("acme", "eu", 1)
    with sessions() as session:
        numbers = sorted(card.number for card in session.scalars(sa.select(Card)))
    assert numbers == sorted([*(f"{row}" for row in range(25)), "g"])


def test_rekey_goes_on_after_a_crash(sessions: sessionmaker[Session], place: Place) -> None:
    """What a walk yielded is stored, and `after` goes on behind it; the rest is not lost."""
    add(sessions, *(Ticket(organization="acme", note=f"{row}") for row in range(9)))
    place.rotate("acme")
    with sessions() as session:
        first = next(rekey(session, Ticket, batch=4))
    assert (first.rows, first.moved) == (4, 4)
    rest = walk(sessions, Ticket, batch=4, after=first.after)
    assert [step.moved for step in rest] == [4, 1]
    assert walk(sessions, Ticket, after=rest[-1].after) == []


def test_rekey_leaves_what_others_write(sessions: sessionmaker[Session], place: Place) -> None:
    """A value that somebody sets while it is moved stays as it was set."""
    add(sessions, *(Ticket(organization="acme", note=f"{row}") for row in range(3)))
    place.rotate("acme")
    tenants = sessions.kw["info"]["keyfold"]
    moving = tenants.rekey_many

    def overtaken(*arguments: Any) -> Any:
        with sessions.begin() as session:
            session.scalars(sa.select(Ticket).filter_by(id=2)).one().note = "newer"
        return moving(*arguments)

    tenants.rekey_many = overtaken
    (step,) = walk(sessions, Ticket)
    assert (step.moved, step.overtaken) == (2, 1)
    del tenants.rekey_many
    with sessions() as session:
        rows = session.scalars(sa.select(Ticket).order_by(Ticket.id))
        assert [ticket.note for ticket in rows] == ["0", "newer", "2"]


def test_rekey_tells_which_rows_it_left(sessions: sessionmaker[Session], place: Place) -> None:
    """Rows of a customer that refuses, or that do not belong, stay; all others move."""
    rows = [Ticket(organization=("acme", "globex")[row % 2], note="x") for row in range(6)]
    add(sessions, *rows, Ticket(organization="acme", note="spoilt"))
    raw(sessions, "UPDATE tickets SET note = :bytes WHERE id = 7", bytes=b"nonsense")
    before = raw(sessions, "SELECT note FROM tickets WHERE organization = 'globex' ORDER BY id")
    place.rotate("acme")
    place.revoke("globex")
    (step,) = walk(sessions, Ticket)
    assert step.moved == 3
    found = {failure.row: type(failure.error) for failure in step.failures}
    assert found == {
        (2,): keyfold.RevokedError,
        (4,): keyfold.RevokedError,
        (6,): keyfold.RevokedError,
        (7,): keyfold.NotAMessageError,
    }
    for failure in step.failures:
        assert "column tickets.note of cluster " in failure.error.message
    left = raw(sessions, "SELECT note FROM tickets WHERE organization = 'globex' ORDER BY id")
    assert left == before


def test_rekey_walks_derived_tables(sessions: sessionmaker[Session], place: Place) -> None:
    """The values of a derived class lie in two tables, and both move."""
    add(sessions, Vip(organization="acme", note="hi", seat="4b", lounge="red"))
    place.rotate("acme")
    (step,) = walk(sessions, Vip)
    assert (step.moved, step.failures) == (3, ())
    place.client.retire_generation("acme", "eu", 1)
    vip = only(sessions, Vip)
    assert (vip.note, vip.seat, vip.lounge) == ("hi", "4b", "red")


def test_rekey_needs_an_encrypted_attribute(sessions: sessionmaker[Session]) -> None:
    """A class without one is a mistake, not a walk that moves nothing."""

    class Plain(DeclarativeBase):
        pass

    class Thing(Plain):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(EncryptedColumnError, match="Thing has no encrypted attribute"):
        walk(sessions, Thing)


def test_without_the_extra_one_line_says_what_to_install() -> None:
    """A program without SQLAlchemy ends with the name of the extra."""
    code = "import sys; sys.modules['sqlalchemy'] = None; import keyfold.integrations.sqlalchemy"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stderr.splitlines()[-1].endswith("install keyfold[sqlalchemy]")
    assert "During handling" not in done.stderr
