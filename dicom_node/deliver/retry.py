"""The one retry policy: exponential, full jitter, capped; for what counts as an attempt, then dead letter."""

from __future__ import annotations

import datetime as dt
import math

from dicom_node.config import DeliveryPolicy

__all__ = ["longest_delay_s", "next_attempt", "next_try"]


def longest_delay_s(policy: DeliveryPolicy, failed_attempts: int) -> float:
    """Upper end of the delay after that many failed attempts, seconds."""
    # In logarithms: the power itself overflows long before an operator's number of attempts does.
    doublings = math.log(policy.maximum_delay_s / policy.first_delay_s, policy.multiplier)
    if failed_attempts - 1 >= doublings:
        return policy.maximum_delay_s
    return policy.first_delay_s * policy.multiplier ** (failed_attempts - 1)


def next_try(
    policy: DeliveryPolicy, tries: int, now: dt.datetime, jitter: float, retry_after_s: float = 0.0
) -> dt.datetime:
    """When to try again.

    Full jitter: uniform between now and the exponential delay, so that nodes that lost the same PACS do not all come
    back at once.

    Parameters
    ----------
    tries
        Tries in vain so far, the one just made included; at least 1.
    jitter
        Uniform in [0, 1), drawn once for all that failed together, so that it comes back over one association.
    retry_after_s
        What the peer asks for, obeyed up to the policy's longest delay.
    """
    delay_s = jitter * longest_delay_s(policy, tries)
    return now + dt.timedelta(seconds=max(delay_s, min(retry_after_s, policy.maximum_delay_s)))


def next_attempt(
    policy: DeliveryPolicy, failed_attempts: int, now: dt.datetime, jitter: float, retry_after_s: float = 0.0
) -> dt.datetime | None:
    """When to try again what counts, see :func:`next_try`; ``None`` when the attempts are used up: a dead letter."""
    if failed_attempts >= policy.maximum_attempts:
        return None
    return next_try(policy, failed_attempts, now, jitter, retry_after_s)
