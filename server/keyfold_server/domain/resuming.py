"""Resuming: the errors of a reader that asks to go on where it cannot."""

from __future__ import annotations

from keyfold_server.domain.errors import ResumeTokenExpiredError, ResumeTokenInvalidError


def invalid_token(why: str) -> ResumeTokenInvalidError:
    """Returns the error for a token that cannot be used, with the reason in words."""
    return ResumeTokenInvalidError(
        f"resume_token cannot be used: {why}; begin without a token", field="resume_token"
    )


def expired_token() -> ResumeTokenExpiredError:
    """Returns the error for a token whose place in the log has been pruned."""
    return ResumeTokenExpiredError(
        "the log was pruned beyond the place of resume_token, so what followed it is gone; begin "
        "without a token",
        field="resume_token",
    )
