"""The commands of keyfold-server, with which an operator works on a server's files and store.

There is a file for each noun; importing the package registers all commands. Each command imports
what it needs, so that all of them start quickly.
"""

from keyfold_server.admin import check, dev_certs, dev_keys, policy, seal, server, store
from keyfold_server.admin.terminal import EXIT_DECLINED, EXIT_ERROR, app, fail, reported

__all__ = [
    "EXIT_DECLINED",
    "EXIT_ERROR",
    "app",
    "check",
    "dev_certs",
    "dev_keys",
    "fail",
    "policy",
    "reported",
    "seal",
    "server",
    "store",
]
