"""PostgreSQL: where the store is, its connections, and its notifications.

    address        the store's url, parsed and made safe
    connections    pools, and how transactions begin
    session        a connection whose waits end
    notifications  a store that hears of changes at once

Only `session` and `notifications` import the driver, which may be missing.
"""
