"""Outbound requests: to allowed addresses only, within a time, with a bounded answer."""

from __future__ import annotations

from keyfold_relay.http.addresses import Addresses, ForbiddenAddressError
from keyfold_relay.http.outbound import Answer, NoAnswerError, Outbound

__all__ = ["Addresses", "Answer", "ForbiddenAddressError", "NoAnswerError", "Outbound"]
