"""Identifies callers by certificates and tokens, and says by the policy file what they may do.

It knows only the domain. `rpc` identifies a call's caller with it, and the service checks that
caller's rights; `bootstrap` hands both of them what they need.
"""
