"""Every call as a value: its method, its request, and how to read its response.

Both clients take their calls from here and differ only in how they send one.
"""

from keyfold.calls.call import Call, Plane, Response, Result
from keyfold.calls.caller import get_caller
from keyfold.calls.data_plane import generate_data_key, rewrap, unwrap, wrap
from keyfold.calls.deletion import delete_cluster, undelete_cluster
from keyfold.calls.lifecycle import (
    add_regions,
    enable,
    get_access_policy,
    get_status,
    recheck,
    restore,
    retire_generation,
    revoke,
    rotate,
    test_key,
)

__all__ = [
    "Call",
    "Plane",
    "Response",
    "Result",
    "add_regions",
    "delete_cluster",
    "enable",
    "generate_data_key",
    "get_access_policy",
    "get_caller",
    "get_status",
    "recheck",
    "restore",
    "retire_generation",
    "revoke",
    "rewrap",
    "rotate",
    "test_key",
    "undelete_cluster",
    "unwrap",
    "wrap",
]
