"""A connection to PostgreSQL whose every wait ends.

The server's own timeouts end work that keeps the server busy. Only this side notices a server that
is paused, or a network that swallows everything.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from psycopg import Connection, Error, OperationalError
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import Diagnostic, error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from keyfold_server.store.database.trip import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

    Command = tuple[bytes, Sequence[Sequence[Any]]]
    """A statement with $1, $2 … in it, and its parameters; it runs once for each of these."""

    _Query = tuple[bytes, Sequence[Any], Sequence[int] | None, Sequence[Any] | None]
    """A statement, the values of its parameters, their types and their formats."""

_WARNING: Final = "01000"
"""SQLSTATE of a warning."""

_NEVER: Final = (b"BEGIN", b"COMMIT")
"""How statements begin that need no plan."""

_GOOD: Final = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)

_T = TypeVar("_T")


_NOT_PREPARED: Final = ("26000", "42P05", "0A000")
"""SQLSTATEs of a prepared statement that the server's session does not have, or has already, or
whose answer would have other columns than when it was prepared."""

_MOST: Final = 50
"""Most statements that a session prepares. The poll has about ten; some come once more for each
size that a number's type may have."""


@dataclass(slots=True)
class Preparing:
    """Whether the sessions of a pool prepare their statements.

    A server then plans each statement once, and not each time: of what a poll costs PostgreSQL,
    planning is most. Behind a pooler a transaction may get another of the server's sessions, which
    lacks the statements, and says so. The pool then stops, for good.

    Attributes:
        on: Whether they do.
    """

    on: bool


@lru_cache(_MOST)
def _name(text: bytes, types: tuple[int, ...] | None) -> bytes:
    """Returns the name of a prepared statement, under which every session has the same one."""
    return b"keyfold_" + hashlib.sha256(b"%b%r" % (text, types)).hexdigest()[:32].encode()


class NoAnswerError(OperationalError, TimeoutError):
    """The server did not answer in time, and this side gave up the connection."""


class BoundedSession(Connection[TupleRow]):
    """A connection that this side gives up at a deadline.

    Attributes:
        ends: The deadline in monotonic seconds, or None.
        begins: The statements that begin the transaction, if they have not been sent yet. They go
            to the server with the transaction's first trip (protocol S13).
        silent: Hears when this side gives the connection up because the server did not answer, or
            lacks changes.
        stale: Returns whether another connection to the server was given up so meanwhile.
        preparing: Whether `exchange` prepares statements.
    """

    ends: float | None = None
    silent: Callable[[], None] = staticmethod(lambda: None)
    stale: Callable[[], bool] = staticmethod(lambda: False)
    begins: tuple[str, ...] = ()
    preparing = Preparing(on=False)
    _planned: frozenset[bytes] = frozenset()
    _warned = False

    def watch(self) -> None:
        """Starts to listen for the server's warnings."""
        self.add_notice_handler(self._on_notice)

    def begin(self) -> None:
        """Sends the statements that begin the transaction, unless they have been sent."""
        statements, self.begins = self.begins, ()
        if statements:
            self.execute("; ".join(statements).encode())

    def commit(self) -> None:
        """Commits, and accepts a success only without a warning.

        If somebody cancels the wait for a synchronous standby, the server reports success and a
        warning. The change is then on this server alone, and a failover may take it back
        (protocol S2).

        Raises:
            NoAnswerError: The server warned, so the change may not stay.
        """
        self._warned = False
        super().commit()
        self._refuse_warned()

    def exchange(self, commands: Sequence[Command], *, commit: bool = False) -> list[Answer]:
        """Sends statements together, and waits once for the answers to all of them.

        Args:
            commands: The statements. If one fails, the server skips all that follow it.
            commit: Whether to commit the transaction after them, as `commit` does.

        Returns:
            The answer to each statement.

        Raises:
            Error: A statement failed. If the transaction may have been committed all the same, the
                error has the attribute `committing`.
        """
        begins, self.begins, self._warned = self.begins, (), False
        sent: list[Command] = [*((text.encode(), ((),)) for text in begins), *commands]
        if commit:
            sent.append((b"COMMIT", ((),)))
        queries = self._queries(sent)
        results: list[PGresult] = []
        try:
            with self.lock:
                self._pass_through(queries, results)
            if commit:
                self._refuse_warned()
        except Error as error:
            # If a statement before the commit failed, the server has skipped the commit. Otherwise
            # nobody knows: it may have ended the session after it had committed.
            skipped = any(result.status not in _GOOD for result in results[: len(queries) - 1])
            error.committing = commit and not skipped  # type: ignore[attr-defined]
            if error.sqlstate in _NOT_PREPARED:
                self.preparing.on = False
            raise
        return self._answers(sent, results)[len(begins) : len(begins) + len(commands)]

    def _queries(self, commands: Sequence[Command]) -> list[_Query]:
        dump = Transformer(self)
        queries: list[_Query] = []
        for text, rows in commands:
            for row in rows:
                values = dump.dump_sequence(row, [PyFormat.AUTO] * len(row))
                queries.append((text, values, dump.types, dump.formats))
        return queries

    def _pass_through(self, queries: Sequence[_Query], results: list[PGresult]) -> None:
        """Sends queries, and adds their results to a list as they come.

        Raises:
            Error: One of them failed, or the connection did.
        """
        self.pgconn.enter_pipeline_mode()
        prepares = self._send(queries)
        # One Sync, and no Flush after it: the server's timeout for a pause inside a transaction
        # runs only while a Sync is the last that it got.
        self.pgconn.pipeline_sync()
        try:
            self.wait(self._flush())
            self.wait(self._receive(results, iter(prepares)))
            self.pgconn.exit_pipeline_mode()
        except OperationalError:
            # If the server said why it ended the session, that is the error.
            self._require_good(results)
            raise
        self._require_good(results)

    def _send(self, queries: Sequence[_Query]) -> list[bytes | None]:
        """Sends queries, and prepares those that this session prepares and has not prepared.

        Returns:
            For each answer that comes: the name of a statement that is prepared, or None.
        """
        answers: list[bytes | None] = []
        known = set(self._planned)
        for text, values, types, formats in queries:
            if not self.preparing.on or text.startswith(_NEVER) or len(known) > _MOST:
                self.pgconn.send_query_params(text, values, types, formats)
                answers.append(None)
                continue
            name = _name(text, None if types is None else tuple(types))
            if name not in known:
                self.pgconn.send_prepare(name, text, types)
                answers.append(name)
                known.add(name)
            self.pgconn.send_query_prepared(name, values, formats)
            answers.append(None)
        return answers

    def _flush(self) -> PQGen[None]:
        while self.pgconn.flush():
            if (yield Wait.RW) & Ready.R:
                self.pgconn.consume_input()

    def _receive(self, results: list[PGresult], prepares: Iterator[bytes | None]) -> PQGen[None]:
        pgconn = self.pgconn
        while True:
            while pgconn.is_busy():
                if (yield Wait.R) & Ready.R:
                    pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                if pgconn.status != ConnStatus.OK:
                    raise OperationalError("the connection is lost")
            elif result.status == ExecStatus.PIPELINE_SYNC:
                return
            elif (name := next(prepares, None)) is not None and result.status in _GOOD:
                # It stays prepared, even if the transaction fails.
                self._planned |= {name}
            else:
                results.append(result)

    def _require_good(self, results: Sequence[PGresult]) -> None:
        for result in results:
            if result.status not in _GOOD:
                raise error_from_result(result, encoding=self.info.encoding)

    def _answers(self, commands: Sequence[Command], results: list[PGresult]) -> list[Answer]:
        load, left, answers = Transformer(self), iter(results), []
        for _, rows in commands:
            found: list[tuple[Any, ...]] = []
            count = 0
            for _ in rows:
                result = next(left)
                load.set_pgresult(result)
                found += load.load_rows(0, result.ntuples, tuple)
                count += result.command_tuples or 0
            answers.append(Answer(found, count))
        return answers

    def _refuse_warned(self) -> None:
        if self._warned:
            self.pgconn.finish()
            self.silent()
            raise NoAnswerError("the commit may not have been replicated")

    def _on_notice(self, notice: Diagnostic) -> None:
        self._warned = self._warned or notice.sqlstate == _WARNING

    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """Waits until the deadline at most.

        Raises:
            NoAnswerError: The deadline has passed.
        """
        if self.ends is None or timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, max(0.0, self.ends - time.monotonic()))
        except OperationalError as error:
            if time.monotonic() < self.ends:
                raise
            # No transaction is left to take what the server may still send.
            self.pgconn.finish()
            self.silent()
            raise NoAnswerError("the server did not answer in time") from error
