"""Coalescing with a made-up server: who sends when, and what becomes of those who give up."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import pytest
from google.rpc.status_pb2 import Status
from hypothesis import example, given, settings
from hypothesis import strategies as st

import keyfold
from keyfold import calls
from keyfold.calls.batches import MAX_BYTES, MAX_ITEMS
from keyfold.coalescing import lane, tasks, threads
from keyfold.coalescing.batch import ALONE
from keyfold.coalescing.lane import PATIENCE
from keyfold.coalescing.tasks import AsyncCoalescer
from keyfold.coalescing.threads import Coalescer
from keyfold.errors.rpc_status import error_of_call
from keyfold.transport.failures import failure_of
from keyfold.v1 import key_management_service_pb2 as api
from lateness import in_time

LONG: Final = 30.0
"""Seconds of a deadline that does not matter."""

BAD: Final = b"bad"
"""What a wrapped key ends with that does not open."""


def key(number: int, of: int = 0) -> bytes:
    """Returns a wrapped key of a KEK."""
    return b"\x01\x01" + of.to_bytes(16, "big") + number.to_bytes(4, "big")


def answer(wrapped_key: bytes) -> api.BatchUnwrapResult:
    """Returns what the server makes of a wrapped key: what it opens to is the key itself."""
    if wrapped_key.endswith(BAD):
        return api.BatchUnwrapResult(error=Status(code=3, message="bad"))
    return api.BatchUnwrapResult(answer=api.UnwrapResponse(plaintext=wrapped_key, region="eu"))


def keys_of(call: calls.Call[Any, Any]) -> list[bytes]:
    """Returns the wrapped keys in a call or a batch."""
    request: Any = call.request
    items = request.items if call.method == "BatchUnwrap" else [request]
    return [one.wrapped_key for one in items]


def answered(call: calls.Call[Any, Any]) -> Any:
    """Returns the response to a call or a batch.

    Raises:
        KeyfoldError: The one key of the call does not open.
    """
    results = [answer(one) for one in keys_of(call)]
    if call.method == "BatchUnwrap":
        return api.BatchUnwrapResponse(results=results)
    if results[0].HasField("error"):
        raise failure(grpc.StatusCode.INVALID_ARGUMENT, "bad")
    return results[0].answer


def failure(code: grpc.StatusCode, text: str = "it went wrong") -> keyfold.KeyfoldError:
    """Returns an error as a client raises it."""
    cause = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), text)
    error = error_of_call(cause)
    error.__cause__ = cause
    return error


# --- threads ---


class Sends:
    """A server for threads: each call waits until the test lets it go.

    Attributes:
        answer: Returns the response to a call or a batch.
        sent: The keys of each call and batch, in the order in which they came in.
        senders: The key of the call whose thread sent each.
    """

    def __init__(self) -> None:
        self.answer = answered
        self.sent: list[list[bytes]] = []
        self.senders: list[bytes] = []
        self.caller = threading.local()
        self._came = threading.Condition()
        self._free: set[int] = set()
        self._errors: dict[int, BaseException] = {}
        self._all = False

    def send(
        self,
        call: Any,
        *,
        timeout: float | None = None,
        caller: Any = None,
        links: Sequence[Any] = (),
    ) -> Any:
        """Answers a call once the test lets it go, or fails it at its deadline."""
        with self._came:
            number = len(self.sent)
            self.sent.append(keys_of(call))
            self.senders.append(self.caller.key)
            self._came.notify_all()
            free = self._came.wait_for(lambda: self._all or number in self._free, timeout)
        if not free:
            raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        if number in self._errors:
            raise self._errors[number]
        return self.answer(call)

    def failure(self, failed: BaseException, call: Any) -> BaseException:
        """Returns the error of a call."""
        return failure_of(failed, call, closed=False)

    def await_sent(self, count: int) -> None:
        """Waits until so many calls and batches have come in."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.sent) >= count, 20)

    def let_go(self, *numbers: int, error: BaseException | None = None) -> None:
        """Answers the calls and batches with these numbers, from 0."""
        with self._came:
            self._free.update(numbers)
            if error is not None:
                self._errors.update(dict.fromkeys(numbers, error))
            self._came.notify_all()

    def let_all_go(self) -> None:
        """Answers everything from now on."""
        with self._came:
            self._all = True
            self._came.notify_all()


class Threads:
    """A coalescer with callers in threads."""

    def __init__(self) -> None:
        self.sends = Sends()
        self.coalescer = Coalescer()
        self._pool = ThreadPoolExecutor(100)

    def ask(self, number: int, limit: float = LONG, of: int = 0) -> keyfold.Unwrapped:
        """Unwraps a key in this thread."""
        self.sends.caller.key = key(number, of)
        call = calls.unwrap("prod", key(number, of), None)
        return self.coalescer.ask(self.sends, call, limit, ())

    def begin(self, *numbers: int, limit: float = LONG) -> list[Future[keyfold.Unwrapped]]:
        """Unwraps keys, each in a thread of its own, and waits until they are sent or wait."""
        before = self.begun()
        begun = [self._pool.submit(self.ask, number, limit) for number in numbers]
        until = time.monotonic() + 20
        while self.begun() < before + len(numbers):
            assert time.monotonic() < until
            time.sleep(0.001)
        return begun

    def begun(self) -> int:
        """Returns how many keys were sent or wait."""
        waiting = sum(len(lane.waiting) for lane in list(self.coalescer._lanes.values()))
        return waiting + sum(map(len, list(self.sends.sent)))

    def close(self) -> None:
        """Ends what is left."""
        self.sends.let_all_go()
        self._pool.shutdown()


@pytest.fixture
def house() -> Iterator[Threads]:
    """A coalescer with callers in threads."""
    made = Threads()
    with contextlib.closing(made):
        yield made


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every call wait for the one under way."""
    for module in (threads, tasks):
        monkeypatch.setattr(module, "PATIENCE", LONG)


def idle(coalescer: Coalescer) -> bool:
    """Returns whether nothing is under way, and nobody waits."""
    return not coalescer._lanes


def opened(begun: list[Future[keyfold.Unwrapped]]) -> list[bytes]:
    """Returns what calls have opened."""
    return [one.result(20).plaintext for one in begun]


@pytest.mark.usefixtures("patient")
def test_those_who_come_in_meanwhile_travel_together(house: Threads) -> None:
    """The first goes at once, those during it as one batch, and those during that as the next."""
    first = house.begin(1)
    second = house.begin(2, 3, 4)
    assert house.sends.sent == [[key(1)]]
    house.sends.let_go(0)
    house.sends.await_sent(2)
    assert sorted(house.sends.sent[1]) == [key(2), key(3), key(4)]
    third = house.begin(5)
    house.sends.let_all_go()
    assert opened(first + second + third) == [key(number) for number in range(1, 6)]
    assert house.sends.sent[2:] == [[key(5)]]
    assert idle(house.coalescer)


@pytest.mark.usefixtures("patient")
def test_a_thread_sends_for_others_once(house: Threads) -> None:
    """Each batch is sent by one of its own callers, who then leads no more and has its answer."""
    begun = house.begin(0)
    for number in range(1, 40, 3):
        begun += house.begin(number, number + 1, number + 2)
        sent = len(house.sends.sent)
        house.sends.let_go(sent - 1)
        house.sends.await_sent(sent + 1)
    house.sends.let_all_go()
    assert len(opened(begun)) == 40
    assert len(set(house.sends.senders)) == len(house.sends.sent) == 14
    for sender, keys in zip(house.sends.senders, house.sends.sent, strict=True):
        assert sender in keys


@pytest.mark.usefixtures("patient")
def test_the_longest_deadline_leads(house: Threads) -> None:
    """The call with the most time left sends the batch, so no other one is cut short."""
    first = house.begin(1)
    short, long = house.begin(2, limit=5), house.begin(3, limit=LONG)
    house.sends.let_go(0)
    house.sends.await_sent(2)
    assert house.sends.sent[1][0] == key(3)
    house.sends.let_all_go()
    assert opened(first + short + long) == [key(1), key(2), key(3)]


def test_a_leader_keeps_its_own_deadline(house: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader returns at its deadline; who came in later and has more time left goes on alone."""
    monkeypatch.setattr(threads, "PATIENCE", LONG)
    monkeypatch.setattr(lane.Lane, "longest", lambda self: next(iter(self.waiting)))
    first = house.begin(1)
    leader, other = house.begin(2, limit=1), house.begin(3, limit=LONG)
    house.sends.let_go(0)
    house.sends.await_sent(2)
    with pytest.raises(keyfold.DeadlineError):
        leader[0].result(20)
    house.sends.let_all_go()
    assert opened(first + other) == [key(1), key(3)]
    assert house.sends.sent[2:] == [[key(3)]]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), ValueError("a bug")])
def test_who_leads_and_is_interrupted_leaves_nobody_behind(
    house: Threads, error: BaseException
) -> None:
    """The others of its batch go alone, and the calls after them as if nothing had been."""
    first = house.begin(1)
    batch = house.begin(2, 3, 4)
    house.sends.let_go(0)
    house.sends.await_sent(2)
    later = house.begin(5, 6)
    house.sends.let_go(1, error=error)
    house.sends.let_all_go()
    ended = [one.exception(20) for one in batch]
    if isinstance(error, Exception):
        assert ended == [None] * 3  # The leader, too, goes again, alone.
    else:
        assert sorted(map(str, ended)) == sorted(map(str, [error, None, None]))
    assert opened(first + later) == [key(1), key(5), key(6)]
    assert idle(house.coalescer)


@pytest.mark.usefixtures("patient")
def test_an_interrupt_between_taking_a_batch_and_sending_it(
    house: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that is interrupted before it has sent anything leaves nobody behind, either."""
    first = house.begin(1)
    batch = house.begin(2, 3, 4)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Coalescer, "_lead", interrupted)
    house.sends.let_all_go()
    ended = [one.exception(20) for one in batch]
    assert sorted(map(repr, ended)) == ["KeyboardInterrupt()", "None", "None"]
    assert opened(first) == [key(1)]
    assert idle(house.coalescer)


@pytest.mark.usefixtures("patient")
def test_the_call_ahead_is_interrupted(house: Threads) -> None:
    """The calls that wait for one that is interrupted leave at once."""
    ahead = house.begin(1)
    others = house.begin(2, 3)
    house.sends.let_go(0, error=KeyboardInterrupt())
    house.sends.let_all_go()
    assert isinstance(ahead[0].exception(20), KeyboardInterrupt)
    assert opened(others) == [key(2), key(3)]


@pytest.mark.usefixtures("patient")
def test_an_interrupted_thread_that_waits(house: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting call that is interrupted leaves its lane, even when it was just told to lead."""
    first = house.begin(1)
    told = threading.Event()
    sleep = threads._Waiter.sleep

    def interrupted(waiter: threads._Waiter, until: float) -> None:
        sleep(waiter, until)
        if keys_of(waiter.call) == [key(2)] and not told.is_set():
            told.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(threads._Waiter, "sleep", interrupted)
    leader = house.begin(2, limit=LONG + 1)
    others = house.begin(3, 4)
    house.sends.let_all_go()
    assert isinstance(leader[0].exception(20), KeyboardInterrupt)
    assert opened(first + others) == [key(1), key(3), key(4)]
    assert key(2) not in [one for sent in house.sends.sent for one in sent]
    assert idle(house.coalescer)


def test_a_leader_whose_thread_is_gone(house: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was told to lead and does not, as after an interrupt in between, strands nobody."""
    first = house.begin(1)
    monkeypatch.setattr(threads, "PATIENCE", LONG)
    gone = house.begin(2, limit=LONG + 1)
    monkeypatch.setattr(threads, "PATIENCE", 0.2)
    monkeypatch.setattr(threads._Waiter, "wake", lambda _: None)
    house.sends.let_go(0)
    opened(first)
    monkeypatch.undo()
    with in_time(5):
        others = house.begin(3, 4)
        house.sends.let_all_go()
        assert opened(others) == [key(3), key(4)]
    assert opened(gone) == [key(2)]
    assert idle(house.coalescer)


def test_a_call_that_hangs_holds_nobody_up(house: Threads) -> None:
    """Who waits leaves beside it after `PATIENCE`, and from then on the lane is free."""
    hanging = house.begin(1)
    with in_time(5):
        others = house.begin(2, 3)
        house.sends.await_sent(2)
        house.sends.let_go(*range(1, 9))
        assert opened(others) == [key(2), key(3)]
        # Nothing is under way that anybody waits for.
        sent = len(house.sends.sent)
        assert house.ask(4).plaintext == key(4)
    assert house.sends.sent[sent:] == [[key(4)]]
    house.sends.let_all_go()
    assert opened(hanging) == [key(1)]
    assert idle(house.coalescer)


@pytest.mark.usefixtures("patient")
def test_who_closes_ends_the_calls_that_wait(house: Threads) -> None:
    """A call that waits when its client is closed raises what one under way raises."""
    first = house.begin(1)
    others = house.begin(2, 3)
    house.coalescer.close()
    for one in others:
        error = one.exception(20)
        assert isinstance(error, keyfold.CancelledError)
        assert (error.code, error.message) == ("CANCELLED", "Channel closed!")
    house.sends.let_all_go()
    assert opened(first) == [key(1)]
    assert idle(house.coalescer)


@pytest.mark.usefixtures("patient")
def test_an_outcome_that_comes_just_before_a_sleep(
    house: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is answered while it is about to wait does not wait."""
    first = house.begin(1)
    awake = threads._Waiter.awake

    def overtaken(waiter: threads._Waiter) -> None:
        # The coalescer's lock is held, so this is as if its last holder had done it.
        assert waiter.lane is not None
        del waiter.lane.waiting[waiter]
        threads._deliver([waiter], [ALONE])
        awake(waiter)

    monkeypatch.setattr(threads._Waiter, "awake", overtaken)
    with in_time(5):
        other = house.begin(2)
        house.sends.let_go(1)
        assert opened(other) == [key(2)]
    house.sends.let_all_go()
    assert opened(first) == [key(1)]


@pytest.mark.usefixtures("patient")
def test_a_batch_has_no_more_than_a_server_takes(
    house: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls beyond the limit of items or bytes leave with the next batch, the oldest first."""
    monkeypatch.setattr(lane, "MAX_ITEMS", 4)
    first = house.begin(0)
    begun = []
    for number in range(1, 10):
        begun += house.begin(number)
    house.sends.let_all_go()
    assert opened(first + begun) == [key(number) for number in range(10)]
    assert [len(sent) for sent in house.sends.sent] == [1, 4, 4, 1]
    # The newest has the longest deadline and leads; the others are the oldest.
    assert sorted(house.sends.sent[1]) == [key(1), key(2), key(3), key(9)]


def test_a_batch_of_bytes() -> None:
    """A batch ends where the next call would make it larger than a server takes."""
    made: lane.Lane[lane.Passenger] = lane.Lane("lane", None)
    for number in range(MAX_ITEMS):
        call = calls.unwrap("prod", key(number) + bytes(8_000), None)
        made.waiting[lane.Passenger(call, float(number), LONG, None)] = None
    batch = made.batch(made.longest())
    made.take_off(batch)
    size = sum(one.size for one in batch)
    assert size <= MAX_BYTES < size + batch[0].size
    assert len(batch) + len(made.waiting) == MAX_ITEMS


def test_a_leader_gives_the_others_a_turn_while_they_come() -> None:
    """Threads that were answered together travel together, and nobody waits who travels alone."""
    made = threads._Lane("lane", None)
    waiters = [
        threads._Waiter(calls.unwrap("prod", key(number), None), 0.0, LONG, None)
        for number in range(5)
    ]
    made.waiting |= dict.fromkeys(waiters[:3])
    assert not made.grows()  # No batch has travelled here yet.
    assert len(made.depart(waiters[0])) == 3
    made.waiting |= dict.fromkeys(waiters[:1])
    made.lead()
    assert made.grows()
    assert not made.grows()  # A turn has brought nobody.
    made.waiting |= dict.fromkeys(waiters[1:2])
    assert made.grows()
    made.waiting |= dict.fromkeys(waiters[2:3])
    assert not made.grows()  # As many as before are here.


@pytest.mark.usefixtures("patient")
def test_a_wrong_number_of_results(house: Threads) -> None:
    """If a result is missing, none counts, so nobody gets another's key: each call goes alone."""

    def short(call: calls.Call[Any, Any]) -> Any:
        response = answered(call)
        if call.method == "BatchUnwrap":
            del response.results[0]
        return response

    house.sends.answer = short
    first = house.begin(1)
    others = house.begin(2, 3, 4)
    house.sends.let_all_go()
    assert opened(first + others) == [key(number) for number in range(1, 5)]


@settings(max_examples=25)
@given(st.data())
def test_threads_in_any_order(data: st.DataObject) -> None:
    """However calls come, end late and fail, each has its own end, and nothing is left behind."""
    plans = data.draw(
        st.lists(
            st.tuples(
                st.floats(0, 0.02),
                st.sampled_from([0.001, 0.01, 0.03, LONG]),
                st.integers(0, 1),
                st.booleans(),
            ),
            min_size=1,
            max_size=24,
        )
    )
    lasts = data.draw(st.lists(st.sampled_from([0.0, 0.001, 0.005, 0.02]), min_size=1, max_size=9))
    fails = data.draw(st.lists(st.sampled_from(FAILURES), min_size=1, max_size=7))
    numbers = iter(range(10**6))

    class Hasty(Sends):
        def send(self, call: Any, *, timeout: float | None = None, **_: Any) -> Any:
            assert timeout is not None
            number = next(numbers)
            last = lasts[number % len(lasts)]
            time.sleep(max(0.0, min(last, timeout)))
            if last >= timeout:
                raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            code = fails[number % len(fails)]
            if code is not None:
                raise failure(code)
            return answered(call)

    sends, coalescer = Hasty(), Coalescer()

    def call(number: int, after: float, limit: float, of: int, bad: bool) -> None:  # noqa: FBT001
        time.sleep(after)
        mine = key(number, of) + (BAD if bad else b"")
        began = time.monotonic()
        try:
            result = coalescer.ask(sends, calls.unwrap("prod", mine, None), limit, ())
        except keyfold.DeadlineError:
            assert limit < LONG
            assert time.monotonic() - began >= limit * 0.9 - 0.001
        except keyfold.InvalidInputError:
            assert bad
        except (keyfold.UnavailableError, keyfold.InternalError, keyfold.LimitError):
            assert set(fails) != {None}
        else:
            assert result.plaintext == mine
            assert not bad

    with ThreadPoolExecutor(len(plans)) as pool:
        begun = [pool.submit(call, number, *plan) for number, plan in enumerate(plans)]
        for one in begun:
            one.result(30)
    assert idle(coalescer)


FAILURES: Final = [
    None,
    None,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
]
"""What may become of a call or batch; None: it is answered."""


# --- asyncio, in a time of its own ---


class Selector(selectors.SelectSelector):
    """Waits for nothing: the loop's time moves on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        """Moves the time on."""
        assert timeout is not None, "every task waits, and nothing will ever happen"
        self.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once."""

    def __init__(self) -> None:
        self._selected = Selector()
        super().__init__(self._selected)

    def time(self) -> float:
        """Returns the time."""
        return self._selected.now


@dataclass
class Sent:
    """A call or batch that came in.

    Attributes:
        keys: Its keys.
        at: When.
        until: Its deadline.
        code: How it failed; None: it was answered.
        ended: When it ended; None: it is under way.
        cancelled: Whether it was cancelled.
    """

    keys: list[bytes]
    at: float
    until: float
    code: grpc.StatusCode | None = None
    ended: float | None = None
    cancelled: bool = False


@dataclass
class AsyncSends:
    """A server for tasks.

    Attributes:
        lasts: Seconds that each call or batch takes, in turn.
        fails: How each ends, in turn.
        sent: What came in.
        closed: Whether the client is closed.
    """

    lasts: Sequence[float] = (0.001,)
    fails: Sequence[grpc.StatusCode | None] = (None,)
    sent: list[Sent] = field(default_factory=list)
    closed: bool = False

    async def send(
        self,
        call: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  as the client
        caller: Any = None,
        links: Sequence[Any] = (),
    ) -> Any:
        """Answers a call or batch, or fails it."""
        assert timeout is not None
        now = asyncio.get_running_loop().time
        number = len(self.sent)
        one = Sent(keys_of(call), now(), now() + timeout)
        self.sent.append(one)
        last = self.lasts[number % len(self.lasts)]
        try:
            await asyncio.sleep(min(last, timeout))
        except asyncio.CancelledError:
            one.cancelled = True
            raise
        finally:
            one.ended = now()
        code = self.fails[number % len(self.fails)]
        if last >= timeout:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        if code is not None:
            one.code = code
            raise failure(code)
        return answered(call)

    def failure(self, failed: BaseException, call: Any) -> BaseException:
        """Returns the error of a call."""
        return failure_of(failed, call, closed=self.closed)


@dataclass
class Plan:
    """A call of a test.

    Attributes:
        at: When it is made.
        limit: Seconds that it may take.
        of: The number of its KEK.
        bad: Whether its key does not open.
        gives_up: Seconds after which its task is cancelled; None: it is not.
    """

    at: float
    limit: float = LONG
    of: int = 0
    bad: bool = False
    gives_up: float | None = None


@dataclass
class Ended:
    """How a call ended: when, and with what."""

    key: bytes
    began: float
    at: float
    how: Any


def run(sends: AsyncSends, plans: Sequence[Plan]) -> list[Ended]:
    """Makes calls, and returns how each ended. Checks that nothing is left behind."""
    coalescer = AsyncCoalescer()

    async def make(number: int, plan: Plan) -> Ended:
        now = asyncio.get_running_loop().time
        await asyncio.sleep(plan.at)
        mine, began = key(number, plan.of) + (BAD if plan.bad else b""), now()
        call = calls.unwrap("prod", mine, None)
        asking = asyncio.create_task(coalescer.ask(sends, call, plan.limit, ()))
        if plan.gives_up is not None:
            asyncio.get_running_loop().call_later(plan.gives_up, asking.cancel)
        try:
            how: Any = await asking
        except (asyncio.CancelledError, keyfold.KeyfoldError) as error:
            how = error
        return Ended(mine, began, now(), how)

    async def all_of_them() -> list[Ended]:
        ended = await asyncio.gather(*(make(*each) for each in enumerate(plans)))
        # What everybody has given up ends in the next turns of the loop.
        for _ in range(5):
            await asyncio.sleep(0)
        assert not coalescer._lanes
        assert not coalescer._batches
        return list(ended)

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(all_of_them())


SOON: Final = 1e-6
"""Seconds by which the loop's clock may round."""

times = st.floats(0, 0.05).map(lambda value: round(value, 4))
plans = st.builds(
    Plan,
    at=times,
    limit=st.sampled_from([0.0005, 0.003, 0.02, 0.3, LONG]),
    of=st.integers(0, 1),
    bad=st.booleans(),
    gives_up=st.none() | times,
)


@given(
    st.lists(plans, min_size=1, max_size=40),
    st.lists(st.sampled_from([0.0, 0.0004, 0.002, 0.009, 0.04, 1.0]), min_size=1, max_size=7),
    st.lists(st.sampled_from(FAILURES), min_size=1, max_size=5),
)
@example([Plan(0), Plan(0), Plan(0, gives_up=0.0)], [1.0], [None])
@example([Plan(0), Plan(0, gives_up=0.0001), Plan(0, gives_up=0.0002)], [0.001], [None])
def test_tasks_in_any_order(
    plans: list[Plan], lasts: list[float], fails: list[grpc.StatusCode | None]
) -> None:
    """However calls come, are cancelled, end late and fail, each ends as if it were alone."""
    sends = AsyncSends(lasts, fails)
    ended = run(sends, plans)
    for plan, one in zip(plans, ended, strict=True):
        carried = [sent for sent in sends.sent if one.key in sent.keys]
        assert len(carried) <= 2
        assert one.at <= one.began + plan.limit + SOON
        if plan.gives_up is not None:
            assert one.at <= one.began + plan.gives_up + SOON
        match one.how:
            case asyncio.CancelledError():
                assert plan.gives_up is not None
                assert abs(one.at - one.began - plan.gives_up) < SOON
            case keyfold.DeadlineError():
                assert abs(one.at - one.began - plan.limit) < SOON
            case keyfold.InvalidInputError():
                assert plan.bad
            case keyfold.KeyfoldError() as error:
                [*_, last] = carried
                assert last.code is not None
                assert last.code.name == error.code
                # A failure that may be about the batch is nobody's before it was tried alone.
                assert error.code != "INTERNAL" or last.keys == [one.key]
            case result:
                assert not plan.bad
                assert result.plaintext == one.key
        if carried:
            assert carried[0].at <= one.began + PATIENCE + SOON
        else:
            assert one.at <= one.began + PATIENCE + SOON
    for sent in sends.sent:
        assert len(set(sent.keys)) == len(sent.keys)
        assert len({each[2:18] for each in sent.keys}) == 1


def test_a_batch_ends_when_everybody_has_given_up() -> None:
    """The batch is cancelled once all of its calls are, and not before."""
    sends = AsyncSends([1.0])
    plans = [Plan(0), Plan(0.001, gives_up=0.05), Plan(0.001, gives_up=0.07)]
    first, *others = run(sends, plans)
    assert isinstance(first.how, keyfold.Unwrapped)
    assert all(isinstance(one.how, asyncio.CancelledError) for one in others)
    assert [sent.cancelled for sent in sends.sent] == [False, True]
    assert sends.sent[1].ended == pytest.approx(1000.071)


def test_the_batchs_deadline_is_the_longest() -> None:
    """A batch has as much time as the call with the most, and each call its own."""
    sends = AsyncSends([0.001, 3.0])
    _, short, long = run(sends, [Plan(0), Plan(0.0005, limit=1), Plan(0.0005, limit=5)])
    assert sends.sent[1].until == pytest.approx(long.began + 5)
    assert isinstance(short.how, keyfold.DeadlineError)
    assert short.at == pytest.approx(short.began + 1)
    assert isinstance(long.how, keyfold.Unwrapped)


def test_in_steady_use_all_callers_travel_together() -> None:
    """Callers who call again as soon as they are answered share one batch each time."""
    sends = AsyncSends()
    coalescer = AsyncCoalescer()

    async def caller(number: int) -> None:
        for _ in range(10):
            await coalescer.ask(sends, calls.unwrap("prod", key(number), None), LONG, ())

    async def everybody() -> None:
        await asyncio.gather(*map(caller, range(64)))

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(everybody())
    assert [len(sent.keys) for sent in sends.sent] == [1, *[64] * 9, 63]


async def test_closing_cancels_the_calls_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits when its client is closed raises what one under way raises."""
    monkeypatch.setattr(tasks, "PATIENCE", LONG)
    sends, coalescer = AsyncSends([0.05]), AsyncCoalescer()
    asked = [
        asyncio.create_task(coalescer.ask(sends, calls.unwrap("prod", key(number), None), LONG, ()))
        for number in range(3)
    ]
    await asyncio.sleep(0.01)
    sends.closed = True
    coalescer.close()
    first, *others = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(first, keyfold.Unwrapped)
    assert all(isinstance(one, keyfold.CancelledError) for one in others)
    assert not coalescer._lanes
