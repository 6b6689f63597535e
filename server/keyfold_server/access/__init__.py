"""Who is calling, and what they may do: certificates, tokens, and the policy file.

It knows the domain alone. `rpc` asks who a call's caller is, the service asks what that caller
may do, and both get what `bootstrap` made here.
"""
