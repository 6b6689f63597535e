"""Sessions of requests whose calls end when their time is up; see `deadlines`.

For SDKs that take a session of requests, such as hvac and azure-core's RequestsTransport. SDKs
expect requests' own errors, so those are raised; `root_cause` finds what lies beneath them. This
module must not know any provider.
"""

from __future__ import annotations

import io
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout, TooManyRedirects
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError, MaxRetryError

from keyfold_server.providers.shared.connections import (
    POOL_SIZE,
    AnswerTooLargeError,
    read,
    watch,
)
from keyfold_server.providers.shared.deadlines import CONNECT_TIMEOUT, READ_TIMEOUT, current

_CAUSES: Final = 8
"""Most errors that libraries wrap into one another."""


class _Adapter(HTTPAdapter):
    """Sends within the thread's call, bounds the answer and follows no redirect."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        watch(manager)
        return manager

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Sends, and reads the whole answer even if the caller wants to stream it.

        Raises:
            TooManyRedirects: The answer is a redirect, which could carry a token elsewhere.
            RequestException: There is no whole answer.
        """
        call = current()
        kwargs.setdefault("timeout", None)
        kwargs["timeout"] = kwargs["timeout"] or (CONNECT_TIMEOUT, READ_TIMEOUT)
        try:
            response = super().send(request, *args, **{**kwargs, "stream": True})
            body = read(response.raw)
        except AnswerTooLargeError as error:
            raise RequestsConnectionError("the answer is too large", request=request) from error
        except (HTTPError, OSError) as error:
            if isinstance(error, requests.RequestException) and not call.passed:
                raise
            kind = ReadTimeout if call.passed else RequestsConnectionError
            raise kind("there is no whole answer", request=request) from error
        # The body is decoded already, and requests reads it from here.
        response.raw = io.BytesIO(body)
        response.headers.pop("Content-Encoding", None)
        if response.is_redirect:
            raise TooManyRedirects("a redirect is not followed", response=response)
        return response


def guard(session: requests.Session) -> requests.Session:
    """Makes every call of a session end with its `deadlines.within`; returns the session.

    The session follows no redirect, tries nothing again and keeps no cookies.
    """
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(pool_maxsize=POOL_SIZE, max_retries=0))
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    return session


def root_cause(error: BaseException) -> BaseException:
    """Returns the error beneath those that requests and an SDK wrap it in.

    That is urllib3's own error or one of the operating system, which `connections.what_happened`
    can tell apart.
    """
    for _ in range(_CAUSES):
        if isinstance(error, HTTPError | OSError) and not isinstance(
            error, requests.RequestException | MaxRetryError
        ):
            break
        wrapped = (
            getattr(error, "inner_exception", None),
            getattr(error, "reason", None),
            error.__cause__,
            error.args[0] if error.args else None,
            error.__context__,
        )
        found = next((each for each in wrapped if isinstance(each, BaseException)), None)
        if found is None:
            break
        error = found
    return error
