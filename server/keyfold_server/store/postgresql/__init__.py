"""PostgreSQL: where the store is, its connections, and its notifications.

    address        the store's url, parsed and made safe
    connections    pools, and how transactions begin
    pipeline       statements that PostgreSQL gets and answers together
    session        a connection whose waits end
    notifications  a store that hears of changes at once

Only `session` and `notifications` import the driver, which may be missing.
"""
