"""What a root key has in common with others, as columns of its wraps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyfold_server.domain.key_groups import KeyGroups

if TYPE_CHECKING:
    from keyfold_server.store.schema import Cells


def encoded(groups: KeyGroups) -> tuple[str, str, str | None]:
    """Returns the groups as the columns root_family, root_holder and root_tenant hold them."""
    return groups.family, groups.holder, groups.tenant or None


def decoded(cells: Cells) -> KeyGroups:
    """Returns the groups in those columns of a verified row."""
    family, holder, tenant = cells
    return KeyGroups(family, holder, tenant or "")
