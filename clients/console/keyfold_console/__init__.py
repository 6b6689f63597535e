"""The console: Keyfold in a browser, for operators and for customers' administrators.

It is a client of the API and nothing else. It has no rights of its own: each call brings the
visitor's token, and the server decides. Its rooms, from the top:

    __main__   the program
    command    options and environment
    serving    the listener: TLS, signals, drain
    app        all routes and what surrounds each request
    pages/     a module for each page; pages/__init__ gathers them
    live       changes, as server-sent events
    refusals   errors of the API as pages
    unreadable what is no request, and no form
    visitors   who visits: the token, signing in and out
    rendering  templates
    timeline   health over time, from the log
    api        the connection to the servers, with the visitor's token
    headers    headers for the browser, and from where a form may come
    logs       one line of JSON for each request
    words      states, times and durations in words
    settings   what an operator sets

Invariant: no token, and nothing that a visitor may see, outlives the request that brought it.
"""
