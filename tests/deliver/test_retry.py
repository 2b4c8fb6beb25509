"""The retry policy as a function of failed attempts."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from dicom_node.config import DeliveryPolicy
from dicom_node.deliver.retry import longest_delay_s, next_attempt

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
policies = st.builds(
    DeliveryPolicy,
    first_delay_s=st.floats(0.01, 100),
    multiplier=st.floats(1.01, 10),
    maximum_delay_s=st.floats(100, 10_000),
    maximum_attempts=st.integers(1, 1_000_000),
)


def test_delays_double_up_to_the_cap() -> None:
    policy = DeliveryPolicy(first_delay_s=2, multiplier=2, maximum_delay_s=60, maximum_attempts=20)
    assert [longest_delay_s(policy, n) for n in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]


def test_the_last_attempt_is_the_last() -> None:
    policy = DeliveryPolicy(maximum_attempts=3)
    assert [next_attempt(policy, n, NOW, 0.5) is None for n in (1, 2, 3, 4)] == [False, False, True, True]


@given(policies, st.integers(1, 1_000_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_negative_nor_beyond_the_cap(policy: DeliveryPolicy, failed: int, jitter: float) -> None:
    at = next_attempt(policy, failed, NOW, jitter)
    if failed >= policy.maximum_attempts:
        assert at is None
    else:
        assert at is not None
        # Moments are whole microseconds, rounded.
        assert 0 <= (at - NOW).total_seconds() <= policy.maximum_delay_s + 1e-6


@given(policies, st.integers(1, 10_000))
def test_delays_never_shrink(policy: DeliveryPolicy, failed: int) -> None:
    assert longest_delay_s(policy, failed) <= longest_delay_s(policy, failed + 1)
