"""What wrapped keys and messages are made of. The server uses these same modules.

    xaes     KC-XAES-256-GCM
    context  the one encoding of a context
    faults   why something sealed does not open

They know no stubs, no gRPC and no file, and raise errors of their own, which the client and the
server each translate into theirs.
"""
