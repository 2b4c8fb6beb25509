"""Samples and steps as a route sets them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from pydantic import ValidationError

from dicom_node.config import ResultSettings, Route
from dicom_node.results.circumstances import Circumstances
from pipelines.models.precision import Precision
from pipelines.sampling import Sampling


def test_a_route_sets_samples_and_steps_within_limits() -> None:
    route = Route.model_validate({"destinations": ["pacs"], "synthetic_sampling": {"samples": 12, "steps": 8}})
    assert (route.synthetic_sampling.samples, route.synthetic_sampling.steps) == (12, 8)
    default = Route(destinations=("pacs",)).synthetic_sampling
    assert (default.samples, default.steps, default.precision) == (6, 4, Precision.FLOAT32)
    low = Route.model_validate({"destinations": ["pacs"], "synthetic_sampling": {"precision": "bfloat16"}})
    assert low.synthetic_sampling.precision is Precision.BFLOAT16


@pytest.mark.parametrize(
    "wrong", [{"samples": 1}, {"samples": 65}, {"steps": 0}, {"steps": 65}, {"sample": 4}, {"precision": "half"}]
)
def test_what_makes_no_sense_is_a_mistake_in_the_configuration(wrong: dict[str, int | str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Route.model_validate({"destinations": ["pacs"], "synthetic_sampling": wrong})


@pytest.mark.parametrize(("samples", "steps"), [(1, 4), (65, 4), (6, 0), (6, 65)])
def test_a_spread_needs_two_samples_of_a_step(samples: int, steps: int) -> None:
    with pytest.raises(ValueError, match="2 to 64 samples"):
        Sampling(samples, steps)


def test_other_samples_have_other_uids() -> None:
    """What another setting makes must not come under the UIDs of before: they are of other bytes."""
    usual = Circumstances(("a",), "route", ResultSettings(), dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    same, other = replace(usual, sampling=Sampling()), replace(usual, sampling=Sampling(8, 4))
    packages = ["synthetic_enhancement 1.1.0"]
    assert usual.identity("2.25.1", packages, []) == same.identity("2.25.1", packages, [])
    assert usual.identity("2.25.1", packages, []) != other.identity("2.25.1", packages, [])
    low = replace(usual, sampling=Sampling(precision=Precision.BFLOAT16))
    assert usual.identity("2.25.1", packages, []) != low.identity("2.25.1", packages, [])
