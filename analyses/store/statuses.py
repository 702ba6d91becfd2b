"""The values of a row's column `status`; "" marks an ordinary value."""

from __future__ import annotations

from dataclasses import dataclass

ABOVE, BELOW = CENSORED = ("above", "below")  # no value: the true value lies on this side of the range that was tried or can be predicted
UNDECIDED = "undecided"  # no value: the runs do not determine it
AT_LEAST = "at least"  # the value is a lower bound
USED, FAR, FAILED_TRAINING = GAPS = ("used", "far", "failed training")  # for a gap: how the fit of the threshold treats the run
EXPLAINED, NOT_EXPLAINED = VERDICTS = ("explained", "not explained")  # for a change between two models; UNDECIDED is the third verdict
SUPPORTED, NOT_SUPPORTED = DECIDED = ("supported", "not supported")  # for a claim of the findings; UNDECIDED is the third verdict
STATUSES = ("", *CENSORED, UNDECIDED, AT_LEAST, *GAPS, *VERDICTS, *DECIDED)


@dataclass(frozen=True)
class NoValue:
    """A threshold without a value: its status (above, below or undecided) and the reason in words."""

    status: str
    reason: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """The columns `status` and `note` of the row."""
        return {"status": self.status, "note": self.reason}
