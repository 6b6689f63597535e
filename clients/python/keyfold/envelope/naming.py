"""The cluster that an envelope's own errors name, as those of the client's calls do."""

from __future__ import annotations

from types import TracebackType

from keyfold.errors import KeyfoldError


class Naming:
    """A block whose errors name a cluster. It holds no state, so threads may be in it together."""

    def __init__(self, cluster: str) -> None:
        """Takes the cluster's name."""
        self._cluster = cluster

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Names the cluster in an error that names none yet."""
        if isinstance(error, KeyfoldError):
            self.named(error)

    def named(self, error: KeyfoldError) -> KeyfoldError:
        """Returns an error with the cluster, unless it names one already."""
        if error.cluster is None:
            error.cluster = self._cluster
        return error
