"""When a job is tried again."""

from __future__ import annotations

import datetime as dt

from storage.job_rows import RetryAt

__all__ = ["backing_off"]

FIRST_S = 2.0
LONGEST_S = 60.0


def backing_off(now: dt.datetime) -> RetryAt:
    """Twice as long after each attempt, up to a minute."""

    def retry_at(attempts: int) -> dt.datetime:
        # 2**16 s is far above the limit: a job of many attempts must not overflow.
        return now + dt.timedelta(seconds=min(LONGEST_S, FIRST_S * 2.0 ** min(16, max(0, attempts - 1))))

    return retry_at
