"""The one retry policy: exponential, full jitter, capped, then dead letter."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable

from dicom_node.config import DeliveryPolicy

__all__ = ["longest_delay_s", "next_attempt"]


def longest_delay_s(policy: DeliveryPolicy, failed_attempts: int) -> float:
    """Upper end of the delay after that many failed attempts, seconds."""
    exponent = failed_attempts - 1
    # Beyond this the power would only overflow.
    if exponent * (policy.multiplier - 1) > 1000:
        return policy.maximum_delay_s
    return min(policy.maximum_delay_s, policy.first_delay_s * policy.multiplier**exponent)


def next_attempt(
    policy: DeliveryPolicy,
    failed_attempts: int,
    now: dt.datetime,
    jitter: Callable[[], float] = random.random,
) -> dt.datetime | None:
    """When to try again.

    Full jitter: uniform between now and the exponential delay, so that many results that failed together do not come
    back together.

    Parameters
    ----------
    failed_attempts
        Attempts that failed, the one just made included; at least 1.
    jitter
        Uniform in [0, 1).

    Returns
    -------
    datetime or None
        ``None`` when the policy's attempts are used up: a dead letter.
    """
    if failed_attempts >= policy.maximum_attempts:
        return None
    return now + dt.timedelta(seconds=jitter() * longest_delay_s(policy, failed_attempts))
