"""The edge: one gRPC server, which turns bytes into plain values and back, and errors into codes.

Only this package knows the generated messages, so a change of the contract cannot reach the service
or the domain. It has no interceptors: a table of methods makes generic handlers on bytes, and each
handler is wrapped once, when the server starts.

    server             binds the address, shows the health, drains
    methods            the table of Keyfold's own methods, and what they have in common
    standard_services  health and reflection, behind the same rules
    handlers/          what each method does
    incoming/          the door, the caller, and the request, before a method runs
    messages/          the contract's messages, and the errors on the wire
    call_log, tracing  what is recorded of each call
    probe              a client: asks a running server for its health
"""
