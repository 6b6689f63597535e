"""The edge: one server, which turns bytes into plain values and back, and errors into codes.

Only this package knows the generated messages, so a change of the contract cannot reach the service
or the domain. It has no interceptors: a table of methods makes handlers on bytes, and each handler
is wrapped once, when the server starts. A handler knows a call only as `call.Call`, whichever
transport carries it.

    server             joins the handlers to a transport, shows the health, drains
    grpc_aio           the transport on gRPC's own library: binds the address, sends answers
    asgi_server        the transport on h2corn
    asgi, asgi_call    an application for that transport, and what all its calls have in common
    asgi_grpc          one call of gRPC over it
    asgi_connect, cors one call of plain HTTP over it, and what a browser's pages may do
    call               one call as the handlers see it, and the table of handlers
    methods            the handlers of Keyfold's own methods, and what they have in common
    standard_services  those of health and reflection, behind the same rules
    health, reflection what these two answer
    handlers/          what each method does
    incoming/          the door, the caller, and the request, before a method runs
    messages/          the contract's messages, and the errors on the wire
    call_log, tracing  what is recorded of each call
    probe              a client: asks a running server for its health
"""
