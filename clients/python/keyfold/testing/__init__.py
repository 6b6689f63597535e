"""A real server in the process of an application's own tests.

    import keyfold.testing

    with keyfold.testing.Server() as server:
        server.enable("prod", "eu")
        key = server.client.generate_data_key("prod", "eu")
        server.revoke("prod")

It is the server that runs in production, with a store in memory, root keys of type `LOCAL`, and
callers that may do everything. It needs the extra `server`. `keyfold.testing.fixtures` has it as a
fixture of pytest.

server      the server as a test uses it
running     the same, joined from the server's parts; the only module of the client that knows them
fixtures    the fixture
"""

from keyfold.testing.server import Server

__all__ = ["Server"]
