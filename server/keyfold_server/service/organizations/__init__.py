"""Organizations: the vendor's customers, and the root keys that each of them has linked.

`organizations` and `key_links` answer the methods of the service; `mutations` has what every change
of an organization goes through; `link_proofs` proves the key of a link.
"""
