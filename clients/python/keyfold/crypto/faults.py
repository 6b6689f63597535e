"""Why something sealed does not open. Apart from `xaes`, so that it loads no `cryptography`."""


class CommitmentError(Exception):
    """The commitment does not match: the key, the nonce or the commitment is another one."""


class TagError(Exception):
    """The tag does not match, under the right key: the aad or the ciphertext is another one."""
