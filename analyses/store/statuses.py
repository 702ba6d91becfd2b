"""What the column `status` of a row may say of its value, "" for an ordinary one."""

from __future__ import annotations

from dataclasses import dataclass

ABOVE, BELOW = CENSORED = ("above", "below")  # no value: the true one lies on that side of what was tried or can be predicted
UNDECIDED = "undecided"  # no value: the runs do not tell
AT_LEAST = "at least"  # the value is a lower bound
USED, FAR, FAILED_TRAINING = GAPS = ("used", "far", "failed training")  # of a gap: the part that its run has in the fit of a threshold
EXPLAINED, NOT_EXPLAINED = VERDICTS = ("explained", "not explained")  # of a change between two models; UNDECIDED is the third verdict
STATUSES = ("", *CENSORED, UNDECIDED, AT_LEAST, *GAPS, *VERDICTS)


@dataclass(frozen=True)
class NoValue:
    """Why a threshold has no value: its status (above, below or undecided), and the reason in words."""

    status: str
    reason: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """The columns of a row that say so."""
        return {"status": self.status, "note": self.reason}
