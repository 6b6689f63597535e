"""keyfold-server's own commands: what an operator does beside a server, not through it.

A file for each noun; importing the package registers all of them. What a command needs beyond the
command line it imports itself, so that each starts quickly.
"""

from keyfold_server.admin import dev_certs, dev_keys, policy, store
from keyfold_server.admin.terminal import EXIT_DECLINED, EXIT_ERROR, app, fail, reported

__all__ = [
    "EXIT_DECLINED",
    "EXIT_ERROR",
    "app",
    "dev_certs",
    "dev_keys",
    "fail",
    "policy",
    "reported",
    "store",
]
