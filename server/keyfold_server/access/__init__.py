"""Identifies callers by certificates and tokens, and says by the policy file what they may do.

It knows only the domain. `rpc` identifies a call's caller with it, and the service checks that
caller's rights; `bootstrap` hands both of them what they need.

    tls/       callers by certificate, and the TLS files of the server
    tokens/    callers by token, and the keys of their issuer
    policy/    what callers may do
    lru_cache  what tls and tokens remember of recent calls
"""
