"""Encrypted columns with SQLAlchemy's asyncio, on an event loop that the calls do not block."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import keyfold
import postgres
from in_process import serving
from keyfold.integrations.sqlalchemy import (
    EncryptedColumnError,
    Tenants,
    async_open_rows,
    encrypted,
    rekey,
)
from tenants import Place


class Base(AsyncAttrs, DeclarativeBase):
    """The application's tables."""


class Card(Base):
    """Rows of organizations."""

    __tablename__ = "cards"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization: Mapped[str]
    number = encrypted(str, tenant="organization")


Sessions = async_sessionmaker[AsyncSession]


@asynccontextmanager
async def opened(
    url: str | sa.URL, place: Place
) -> AsyncIterator[tuple[Sessions, keyfold.AsyncKeyCache]]:
    """Gives sessions on a database that encrypt with an AsyncClient, and their cache."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with (
        keyfold.AsyncClient(place.server.target) as client,
        keyfold.AsyncKeyCache(client) as cache,
    ):
        info = Tenants(client, "eu", cache=cache).info
        yield async_sessionmaker(engine, info=info, expire_on_commit=False), cache
    await engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
async def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sessions]:
    """Sessions on a database with rows of acme and globex."""
    (folder := tmp_path / "server").mkdir()
    with serving(folder) as server, Place(server) as place:
        request.node.place = place
        if request.param == "sqlite":
            file = f"sqlite+aiosqlite:///{tmp_path}/app.db"
            async with opened(file, place) as (made, request.node.cache):
                await fill(made)
                yield made
            return
        database = postgres.shared("15")
        name = database.create()
        url = sa.make_url(database.url(name)).set(
            drivername="postgresql+psycopg", password=database.password
        )
        async with opened(url, place) as (made, request.node.cache):
            await fill(made)
            yield made
        database.drop(name)


@pytest.fixture
def place(request: pytest.FixtureRequest, sessions: Sessions) -> Place:
    """The server behind the sessions."""
    found: Place = request.node.place
    return found


@pytest.fixture
def cache(request: pytest.FixtureRequest, sessions: Sessions) -> keyfold.AsyncKeyCache:
    """The cache of the sessions."""
    found: keyfold.AsyncKeyCache = request.node.cache
    return found


async def fill(sessions: Sessions) -> None:
    """Stores ten rows."""
    async with sessions.begin() as session:
        session.add_all(
            Card(organization=("acme", "globex")[row % 2], number=f"{row}") for row in range(10)
        )


async def cards(session: AsyncSession) -> list[Any]:
    """Returns the rows."""
    return list((await session.scalars(sa.select(Card))).all())


async def test_an_attribute_opens_with_those_beside_it(sessions: Sessions) -> None:
    """`awaitable_attrs` opens the rows of its query, which then read like any attribute."""
    async with sessions() as session:
        rows = await cards(session)
        first = await rows[0].awaitable_attrs.number
        assert first == rows[0].number
        assert sorted(row.number for row in rows) == [f"{row}" for row in range(10)]


async def test_open_rows_opens_all(sessions: Sessions) -> None:
    """`async_open_rows` opens rows of any queries."""
    async with sessions() as session:
        rows = await cards(session)
    await async_open_rows(rows)
    assert sorted(row.number for row in rows) == [f"{row}" for row in range(10)]


async def test_an_attribute_that_is_not_open_says_what_to_do(sessions: Sessions) -> None:
    """Reading it would block the event loop, so it is refused, as SQLAlchemy does lazy loads."""
    async with sessions() as session:
        rows = await cards(session)
        with pytest.raises(EncryptedColumnError, match="awaitable_attrs"):
            _ = rows[0].number


async def test_a_row_moves_and_changes(sessions: Sessions) -> None:
    """A flush opens and seals inside of the session's own greenlet."""
    async with sessions.begin() as session:
        for row in await cards(session):
            row.organization = "acme"
    async with sessions.begin() as session:
        rows = await cards(session)
        rows[0].number = "new"
    async with sessions() as session:
        rows = await cards(session)
        await async_open_rows(rows)
        assert {row.organization for row in rows} == {"acme"}
        assert "new" in {row.number for row in rows}


async def test_a_revoked_customer_leaves_the_others(
    sessions: Sessions, place: Place, cache: keyfold.AsyncKeyCache
) -> None:
    """The rows of others open, and those of the revoked one raise where they are read."""
    place.revoke("globex")
    # The place waits for a cache of its own. This one hears of it by another stream.
    until = time.monotonic() + 40
    while "globex" in {name for name, *_ in cache._holdings._memory.shelf._keys}:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    async with sessions() as session:
        rows = await cards(session)
        await async_open_rows(rows)
        for row in rows:
            if row.organization == "acme":
                assert row.number
            else:
                with pytest.raises(keyfold.RevokedError, match=r"cards\.number of cluster globex"):
                    await row.awaitable_attrs.number


async def test_a_table_is_rekeyed(sessions: Sessions, place: Place) -> None:
    """`run_sync` walks the table with the asynchronous client."""
    place.rotate("acme")
    async with sessions() as session:
        (step,) = await session.run_sync(lambda sync: list(rekey(sync, Card)))
    assert (step.moved, step.current) == (5, 5)


async def test_a_client_for_threads_does_not_pass_for_one_for_asyncio(
    sessions: Sessions, place: Place
) -> None:
    """A client and a cache of two kinds are refused where they are joined."""
    async with keyfold.AsyncClient(place.server.target) as client:
        with pytest.raises(TypeError, match="an AsyncClient an AsyncKeyCache"):
            Tenants(client, "eu", cache=place.cache)
