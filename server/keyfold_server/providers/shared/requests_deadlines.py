"""Sessions of requests whose calls end when their time is up; see `deadline`.

For SDKs that take a session: hvac, azure-core's RequestsTransport and google-auth's. What goes
wrong is raised as requests' own errors, since the SDK expects them; the adapter asks
`deadline.within` whether the time had passed. It must not know any provider.
"""

from __future__ import annotations

import io
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout, TooManyRedirects
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from keyfold_server.providers.shared.deadlines import (
    CONNECT_TIMEOUT,
    POOL_SIZE,
    READ_TIMEOUT,
    AnswerTooLargeError,
    current,
    read,
    watch,
)


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
        """Sends and reads the whole answer, whatever the caller wanted streamed.

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
        # What is read is decoded, and requests reads it from here.
        response.raw = io.BytesIO(body)
        response.headers.pop("Content-Encoding", None)
        if response.is_redirect:
            raise TooManyRedirects("a redirect is not followed", response=response)
        return response


def guard(session: requests.Session) -> requests.Session:
    """Makes every call of a session end with its `deadline.within`; returns the session."""
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(pool_maxsize=POOL_SIZE, max_retries=0))
    return session
