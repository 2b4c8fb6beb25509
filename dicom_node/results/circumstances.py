"""What results depend on besides the images and what was found on them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dicom_node.config import ResultSettings
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.results.content import Predecessor
from dicom_node.results.dates import node_offset, offset_text
from dicom_node.results.identity import ResultIdentity
from dicom_node.results.normal_ranges import normal_table
from pipelines.models.identity import ModelIdentity
from pipelines.sampling import Sampling

__all__ = ["Circumstances"]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What results depend on besides the images and what was found on them.

    Attributes
    ----------
    inputs : tuple of str
        Digests of the input instances, or anything else that identifies each.
    route : str
        Name of the route.
    settings : ResultSettings
    created : datetime.datetime
        Date and time that the objects carry, with time zone: of the study version, not of this attempt.
    predecessors : tuple of Predecessor
        Reports on earlier versions of the study, by the same packages on the same route.
    sampling : Sampling
        Of generative analyses.
    """

    inputs: tuple[str, ...]
    route: str
    settings: ResultSettings
    created: datetime.datetime
    predecessors: tuple[Predecessor, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    def identity(
        self, study_instance_uid: str, packages: Iterable[str], models: Sequence[ModelIdentity]
    ) -> ResultIdentity:
        """The identity that the UIDs of results derive from.

        Parameters
        ----------
        packages
            Name and version of each package that the results are of.
        models
            Networks that took part in these packages.
        """
        # The paragraph is on the front page alone, whose identity holds its text.
        said = self.settings.model_dump(mode="json", exclude={"destinations", "paragraph", "normal_ranges"})
        if self.settings.normal_ranges is not None:
            said["normal_ranges"] = normal_table(self.settings).digest
        if self.sampling != Sampling():
            said["sampling"] = [self.sampling.samples, self.sampling.steps, self.sampling.precision]
        # Of the operating system where none is configured: another zone, other dates in the objects.
        said["offset"] = offset_text(node_offset(self.created, self.settings.time_zone))
        return ResultIdentity.of(
            study_instance_uid=study_instance_uid,
            inputs=self.inputs,
            route_name=self.route,
            packages=packages,
            models=models,
            settings=json.dumps(said, sort_keys=True),
            software_version=SOFTWARE_VERSION,
        )
