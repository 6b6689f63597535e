"""Anchors: signed lines about the newest entry of the log, for people to keep elsewhere.

If somebody puts back a whole old store, all of it verifies (protocol A3). An anchor that is kept
where they cannot write tells: the log that it names has an entry that the old store lacks, or has
another one in its place.

    keyfold-anchor 1 STORE NUMBER ENTRY MAC TIME KEY SIGNATURE

STORE and ENTRY are ids, MAC is that of the entry, KEY is the id of the service key, and SIGNATURE
is the HMAC under that key over the words before it. Ids, MAC and SIGNATURE are hexadecimal, or `-`
for an empty one; TIME is milliseconds of Unix time by the store's clock. Only who has the service
key can tell whether a line is right.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from keyfold_server.domain.events import LogMark, LogMarks
from keyfold_server.service.tokens import Mac

_FORM: Final = re.compile(
    r"keyfold-anchor 1 (?P<store>[0-9a-f]{32}) (?P<number>\d{1,18}) (?P<entry>[0-9a-f]{32}|-) "
    r"(?P<mac>[0-9a-f]{64}|-) (?P<time>\d{1,18}) (?P<key>[0-9a-f]{16}) (?P<signature>[0-9a-f]{64})",
    re.ASCII,
)

_LATEST: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, after which a protobuf Timestamp holds no time."""

_PURPOSE: Final = "anchor of the log"


class AnchorOutcome(Enum):
    """What the log says to an anchor."""

    MATCHES = "matches"
    PRUNED = "pruned"
    ROLLED_BACK = "rolled back"
    OTHER_STORE = "other store"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What an anchor says.

    Attributes:
        store_uid: The store's id.
        mark: The newest entry that its log had.
        time: The time of the anchor, in milliseconds of Unix time.
        service_key_id: The id of the key that signed the anchor.
        signature: The signature; empty before the anchor is signed.
    """

    store_uid: bytes
    mark: LogMark
    time: int
    service_key_id: str
    signature: bytes = b""

    @property
    def number(self) -> int:
        """The number of the entry."""
        return self.mark.number

    @property
    def text(self) -> str:
        """The line without its signature."""
        mark = self.mark
        return (
            f"keyfold-anchor 1 {self.store_uid.hex()} {mark.number} {mark.entry_id.hex() or '-'} "
            f"{mark.mac.hex() or '-'} {self.time} {self.service_key_id}"
        )


@dataclass(frozen=True, slots=True)
class SignedAnchor:
    """An anchor and its line."""

    anchor: Anchor
    line: str


@dataclass(frozen=True, slots=True)
class AnchorCheck:
    """What the log says to a line.

    Attributes:
        outcome: The outcome.
        message: The outcome in words.
        anchor: What the line says, or None if it has not the form of an anchor.
    """

    outcome: AnchorOutcome
    message: str
    anchor: Anchor | None = None


def signed(log: LogMarks, mac: Mac) -> SignedAnchor:
    """Returns an anchor for the newest entry of a log."""
    anchor = Anchor(log.store_uid, log.newest, log.now, log.service_key_id)
    return SignedAnchor(anchor, f"{anchor.text} {_signature(anchor, mac).hex()}")


def parsed(line: str) -> Anchor | None:
    """Returns what a line says, whoever made it; None if it has not the form of an anchor."""
    found = _FORM.fullmatch(line.strip())
    if found is None or int(found["time"]) > _LATEST:
        return None
    entry, mac = (b"" if found[n] == "-" else bytes.fromhex(found[n]) for n in ("entry", "mac"))
    return Anchor(
        bytes.fromhex(found["store"]),
        LogMark(int(found["number"]), entry, mac),
        int(found["time"]),
        found["key"],
        bytes.fromhex(found["signature"]),
    )


def held(anchor: Anchor | None, log: LogMarks, mac: Mac) -> AnchorCheck:
    """Holds a log against an anchor.

    Args:
        anchor: What the line says; None if it has not the form of an anchor.
        log: The log's ends, and the entry that the anchor names if the log has it.
        mac: Makes MACs under the service key.
    """
    if anchor is None:
        message = "this line is not an anchor, or it was cut or changed"
        return AnchorCheck(AnchorOutcome.FORGED, message)
    if (anchor.store_uid, anchor.service_key_id) != (log.store_uid, log.service_key_id):
        message = (
            f"this anchor is of store {anchor.store_uid.hex()} under the service key "
            f"{anchor.service_key_id}, and this store is {log.store_uid.hex()} under "
            f"{log.service_key_id}"
        )
        return AnchorCheck(AnchorOutcome.OTHER_STORE, message, anchor)
    if not hmac.compare_digest(anchor.signature, _signature(anchor, mac)):
        message = "Keyfold did not sign this line as it stands"
        return AnchorCheck(AnchorOutcome.FORGED, message, anchor)
    outcome, message = _compared(anchor, log)
    return AnchorCheck(outcome, message, anchor)


def _compared(anchor: Anchor, log: LogMarks) -> tuple[AnchorOutcome, str]:
    """Compares a log with an anchor that Keyfold signed for it."""
    number, pruned, newest = anchor.number, log.pruned.number, log.newest.number
    if number > newest:
        message = (
            f"the store was rolled back: it had entry {number}, and its log ends with entry "
            f"{newest}"
        )
        return AnchorOutcome.ROLLED_BACK, message
    if number < pruned:
        message = (
            f"entry {number} was pruned, so it can no longer be compared; the log begins after "
            f"entry {pruned}"
        )
        return AnchorOutcome.PRUNED, message
    there = log.pruned if number == pruned else log.found.get(number)
    if there != anchor.mark:
        message = f"the store was rolled back: entry {number} of its log is not the one that it had"
        return AnchorOutcome.ROLLED_BACK, message
    return AnchorOutcome.MATCHES, f"the log has entry {number}"


def _signature(anchor: Anchor, mac: Mac) -> bytes:
    return mac(_PURPOSE, anchor.text.encode())
