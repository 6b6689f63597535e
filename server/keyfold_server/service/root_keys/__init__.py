"""Root keys: which customer key a key spec means, who may name it, and whether it works.

TestKey and GetAccessPolicy live here, and what the calls that change clusters need to know about a
key before they use it. Invariant: whether a caller may name a key is decided before anybody calls
the KMS or learns anything about the key (protocol C1). This room changes no cluster; the one thing
that it stores is the external ids that Keyfold issues.
"""
