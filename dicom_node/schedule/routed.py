"""The jobs that a route makes of the series that it takes."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.config import Configuration
from pipelines.package import packages
from storage.jobs import RoutedJob
from storage.schema import JobSlot

__all__ = ["jobs_of_route"]


def jobs_of_route(configuration: Configuration, name: str, series_instance_uids: Sequence[str]) -> list[RoutedJob]:
    """One job for each analysis package of a route, in the route's order."""
    route, execution = configuration.routes[name], configuration.execution
    return [
        RoutedJob(
            route=name,
            package=package.name,
            series_instance_uids=tuple(series_instance_uids),
            priority=route.priority + package.priority,
            deadline_s=route.deadline_s,
            maximum_attempts=execution.maximum_attempts or package.maximum_attempts,
            timeout_s=execution.job_timeout_s or package.timeout_s,
            slot=JobSlot(package.slot.value),
            background=package.priority < 0,
        )
        for package in (packages()[analysis] for analysis in route.analyses)
    ]
