"""ARNs of AWS KMS keys and IAM roles, in every partition.

Invariant: an ARN that these functions accept names one key in one region of one account, or one
role. They do not call AWS. The partitions, and the form of their regions, come from the SDK's own
table, so that a new partition needs only a newer SDK.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from botocore.loaders import Loader

from keyfold_server.domain.errors import InvalidKeySpecError

_URI: Final = "key_spec.uri"
_PRINCIPAL: Final = "key_spec.auth_principal"
_REPLICA: Final = "replica_of"
_KEY_EXAMPLE: Final = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
_ROLE_EXAMPLE: Final = "arn:aws:iam::111122223333:role/keyfold"

_ARN: Final = re.compile(
    r"arn:(?P<partition>[a-z-]+):kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):"
    r"(?P<kind>key|alias)/(?P<name>.+)"
)
_ACCOUNT: Final = re.compile("[0-9]{12}")
_MULTI_REGION: Final = "mrk-"
_HEX: Final = "[0-9a-f]"
_KEY_ID: Final = re.compile(
    f"{_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}|{_MULTI_REGION}{_HEX}{{32}}"
)
_IDENTITY: Final = re.compile(
    r"arn:(?P<partition>[a-z-]+):iam::(?P<account>[0-9]{12}):(?P<kind>role|user)/"
    r"[A-Za-z0-9_+=,.@/-]{1,576}"
)


@dataclass(frozen=True, slots=True)
class KeyArn:
    """The parts of a KMS key's ARN.

    Attributes:
        partition: `aws`, `aws-cn`, `aws-us-gov` and so on.
        region: The region whose endpoint Keyfold calls.
        account: The owner's account id.
        key_id: The key's id. The id of a multi-Region key begins with `mrk-`.
    """

    partition: str
    region: str
    account: str
    key_id: str

    @property
    def is_multi_region(self) -> bool:
        """Whether the key may have replicas in other regions."""
        return self.key_id.startswith(_MULTI_REGION)


@dataclass(frozen=True, slots=True)
class PrincipalArn:
    """The parts of the ARN of an IAM role or user.

    Attributes:
        partition: The partition, as in `KeyArn`.
        account: The id of its account.
        is_role: Whether it is a role, and not a user.
    """

    partition: str
    account: str
    is_role: bool


def is_account(text: str) -> bool:
    """Says whether a text is the id of an account."""
    return _ACCOUNT.fullmatch(text) is not None


@functools.lru_cache(maxsize=4_096)
def key_arn(uri: str) -> KeyArn:
    """Parses the ARN of a key.

    Raises:
        InvalidKeySpecError: The text is an alias, it is not the ARN of a key, or the ARN's region
            does not exist in its partition.
    """
    found = _ARN.fullmatch(uri)
    if uri.startswith("alias/") or (found is not None and found["kind"] == "alias"):
        raise InvalidKeySpecError(
            "the uri is an alias, which could be pointed at another key later; give the ARN of "
            "the key itself, as DescribeKey returns it",
            field=_URI,
        )
    if found is None or _KEY_ID.fullmatch(found["name"]) is None:
        raise InvalidKeySpecError(
            f"the uri must be the ARN of a KMS key, such as {_KEY_EXAMPLE}", field=_URI
        )
    regions = _partitions().get(found["partition"])
    if regions is None:
        raise InvalidKeySpecError(
            f"there is no AWS partition {found['partition'][:32]}; it must be one of: "
            f"{', '.join(_partitions())}",
            field=_URI,
        )
    if regions.fullmatch(found["region"]) is None:
        raise InvalidKeySpecError(
            f"region {found['region'][:32]} is not in partition {found['partition']}; check the "
            "key's ARN",
            field=_URI,
        )
    return KeyArn(found["partition"], found["region"], found["account"], found["name"])


def family(uri: str) -> str:
    """Returns what the ARNs of a multi-Region key have in common, with `*` as region.

    The ARN of a key of one region comes back unchanged.

    Raises:
        InvalidKeySpecError: The text is not the ARN of a key.
    """
    arn = key_arn(uri)
    if not arn.is_multi_region:
        return uri
    return f"arn:{arn.partition}:kms:*:{arn.account}:key/{arn.key_id}"


def replica_uri(uri: str, region: str) -> str:
    """Returns the ARN of a multi-Region key's replica, which differs only in its region.

    Raises:
        InvalidKeySpecError: The key cannot have a replica, or not in that region.
    """
    arn = key_arn(uri)
    if not arn.is_multi_region:
        raise InvalidKeySpecError(
            f"{uri} is a key of one region, since its id does not begin with {_MULTI_REGION}; only "
            "a multi-Region key has replicas, so give the region a key of its own",
            field=_REPLICA,
        )
    if region == arn.region:
        raise InvalidKeySpecError(
            f"{uri} is in {region} itself; a replica is in another region", field=_REPLICA
        )
    made = f"arn:{arn.partition}:kms:{region}:{arn.account}:key/{arn.key_id}"
    try:
        key_arn(made)
    except InvalidKeySpecError:
        # The new ARN differs from a good one only in its region.
        raise InvalidKeySpecError(
            f"there is no region {region[:32]} in partition {arn.partition}, and a key's replicas "
            "are in its own partition; check the provider's region in the settings",
            field=_REPLICA,
        ) from None
    return made


def identity(arn: str) -> PrincipalArn | None:
    """Parses the ARN of a role or user; returns None if the text is not one."""
    found = _IDENTITY.fullmatch(arn)
    if found is None:
        return None
    return PrincipalArn(found["partition"], found["account"], found["kind"] == "role")


def check_role(principal: str, key: KeyArn) -> None:
    """Refuses a principal that Keyfold cannot act as to use a key.

    Raises:
        InvalidKeySpecError: The principal is not the ARN of a role, or its partition is not the
            key's.
    """
    found = identity(principal)
    if found is None or not found.is_role:
        raise InvalidKeySpecError(
            f"auth_principal must be the ARN of an IAM role, such as {_ROLE_EXAMPLE}; leave it "
            "out to use the server's own identity",
            field=_PRINCIPAL,
        )
    if found.partition != key.partition:
        raise InvalidKeySpecError(
            f"the role is in partition {found.partition[:32]} and the key in {key.partition}; "
            "no role reaches across partitions",
            field=_PRINCIPAL,
        )


@functools.cache
def _partitions() -> dict[str, re.Pattern[str]]:
    """Returns the form of regions, by partition."""
    table = Loader().load_data("partitions")
    return {each["id"]: re.compile(each["regionRegex"]) for each in table["partitions"]}
