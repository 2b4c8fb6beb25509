"""``dicom-node analyze``: the whole analysis of a folder, without a network."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_node.commands.terminal import ExitCode, JsonFlag, console, print_json, table
from dicom_node.config import DestinationProfile, ResultSettings, Route
from dicom_node.errors import ConfigurationError, classify
from dicom_node.plain_json import jsonable
from pipelines.indication import Indication

if TYPE_CHECKING:
    from dicom_node.execute.process import ProcessedStudy
    from dicom_node.results.verdict import Verdict
    from pipelines.analysis import Findings
    from pipelines.cine.stack import CineStack, Omission
    from pipelines.quality.findings import QualityAssessment

__all__ = ["analyze"]

FOLDER = "folder"
"""Name of the only route and the only destination here."""
_WITH_RESULTS = ("delivered", "partial")


def analyze(
    path: Annotated[Path, typer.Argument(exists=True, help="Folder of DICOM: any nesting, any studies, any modality.")],
    output: Annotated[Path, typer.Option(help="Folder for the objects, the pictures and results.json.")],
    analysis: Annotated[
        list[str] | None,
        typer.Option(help="Analysis to run, as `dicom-node analyses` lists them; may be given several times. [all]"),
    ] = None,
    indication: Annotated[
        Indication | None, typer.Option(help="Why the patients were examined: some analyses are for one disease only.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Analyse every study in a folder and write the objects that a PACS would get, PNGs and results.json.

    Exit status 0: at least one analysis of one study gave results; 3: none did, the refusals say why; 1: a study
    failed, or a result failed the conformance gate.
    """
    from dicom_node.execute.process import process_study
    from pipelines.cine.files import dicom_files, files_by_study

    by_study = files_by_study(dicom_files(path))
    unreadable = by_study.pop("", [])
    if not by_study:
        raise ConfigurationError(
            "holds no DICOM object that names its study", subject=str(path), remedy="give another folder"
        )
    route = _route(analysis, indication)
    results = ResultSettings(destinations={FOLDER: DestinationProfile(peer=FOLDER)})
    output.mkdir(parents=True, exist_ok=True)
    documents: list[dict[str, Any]] = []
    rejected = 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[step]}"),
        TimeElapsedColumn(),
        console=console,
        disable=as_json,
        transient=True,
    ) as progress:
        task = progress.add_task("studies", total=len(by_study), step="")
        for uid, members in sorted(by_study.items()):
            try:
                processed = process_study(
                    members,
                    study_instance_uid=uid,
                    inputs=sorted(hashlib.sha256(one.read_bytes()).hexdigest() for one in members),
                    created=_created(members),
                    route_name=FOLDER,
                    route=route,
                    results=results,
                    on_step=lambda step: progress.update(task, step=step),
                )
                document = _written(processed, uid, output)
            except Exception as error:  # noqa: BLE001 - one study must not cost the results of the others
                document = _failed(uid, error)
            documents.append(document)
            rejected += len(document["rejected"])
            # After each: what ends the command later does not take these along.
            _write_documents(documents, output)
            progress.advance(task)
    if unreadable:
        message = (
            f"{len(unreadable)} files look like DICOM but cannot be read or name no study, such as {unreadable[0]}"
        )
        typer.echo(message, err=True)
    if as_json:
        print_json({"studies": documents})
    else:
        for document in documents:
            _show(document)
        console.print(f"results in {output}")
    if rejected or any(document["failed"] for document in documents):
        raise typer.Exit(ExitCode.FAILED)
    if not any(one["verdict"] in _WITH_RESULTS for document in documents for one in document["analyses"]):
        raise typer.Exit(ExitCode.REFUSED)


def _route(analyses: Sequence[str] | None, indication: Indication | None = None) -> Route:
    """The only route here: the analyses asked for, in the order asked for, or all."""
    from pipelines.package import packages

    known = packages()
    asked = tuple(dict.fromkeys(analyses or known))
    for name in asked:
        if name not in known:
            raise ConfigurationError(
                f"no analysis is named {name!r}", subject="--analysis", remedy=f"there are: {', '.join(known)}"
            )
    return Route(analyses=asked, destinations=(FOLDER,), indication=indication)


def _write_documents(documents: Sequence[Mapping[str, Any]], output: Path) -> None:
    text = json.dumps({"studies": jsonable(documents)}, indent=2, ensure_ascii=False) + "\n"
    (output / "results.json").write_text(text, encoding="utf-8")


def _failed(uid: str, error: Exception) -> dict[str, Any]:
    """The document of a study of which nothing came."""
    lists = ("stacks", "omissions", "reported", "analyses", "refusals", "objects", "rejected", "pictures")
    return {
        "study_instance_uid": uid,
        "failed": str(classify(error)),
        "paragraph": {},
        "quality": None,
        "seconds": {},
        **{name: [] for name in lists},
    }


def _created(files: Sequence[Path]) -> dt.datetime:
    """Analysing the same files again gives the same objects: they carry the time of the newest file."""
    newest = max(file.stat().st_mtime for file in files)
    return dt.datetime.fromtimestamp(int(newest), tz=dt.UTC)


def _written(processed: ProcessedStudy, uid: str, output: Path) -> dict[str, Any]:
    """Write what came of one study; its document in ``results.json``."""
    from dicom_node.results.numbers import numbers_record
    from dicom_node.results.png import write_summary_pages
    from pipelines.quality.findings import QualityAssessment

    # A UID of the outside world becomes a folder name: only its harmless characters.
    folder = output / re.sub(r"[^0-9A-Za-z.]", "_", uid).strip(".")
    for stale in (*folder.glob("objects/*.dcm"), *folder.glob("summary-*.png")):
        stale.unlink()
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    objects = []
    numbers: dict[str, int] = {}
    for one in processed.objects:
        numbers[one.role.value] = numbers.get(one.role.value, 0) + 1
        path = folder / "objects" / f"{one.role.value}-{numbers[one.role.value]:02d}.dcm"
        path.write_bytes(one.content)
        objects.append(
            {
                "path": path.relative_to(output),
                "sop_class_uid": one.sop_class_uid,
                "sop_instance_uid": one.sop_instance_uid,
                "series_instance_uid": one.series_instance_uid,
                "series_description": one.series_description,
            }
        )
    pages = write_summary_pages(processed.objects, folder)
    return {
        "study_instance_uid": uid,
        "failed": None,
        "stacks": [_stack(stack) for stack in processed.study.stacks],
        "omissions": [_omission(omission) for omission in processed.study.omissions],
        "quality": _quality(processed.findings.get(QualityAssessment)),
        "paragraph": _paragraph(processed),
        "reported": numbers_record(processed.reported),
        "analyses": [_analysis(verdict, processed.numbers.get(verdict.package, {})) for verdict in processed.verdicts],
        "refusals": _refusals(processed.findings),
        "objects": objects,
        "rejected": [
            {"series_description": one.object.series_description, "problems": [str(found) for found in one.problems]}
            for one in processed.rejected
        ],
        "pictures": [page.relative_to(output) for page in pages],
        "seconds": {step: round(value, 3) for step, value in processed.seconds.items()},
    }


def _paragraph(processed: ProcessedStudy) -> dict[str, str]:
    """The paragraph for the report in each language that comes with this software."""
    from dicom_node.config import ParagraphSettings
    from dicom_node.results.paragraph import paragraph, read_template

    made = {}
    for language in ("english", "german"):
        wording = paragraph(processed.reported, read_template(ParagraphSettings(language=language)))
        if wording is not None:
            made[language] = wording.text
    return made


def _analysis(verdict: Verdict, numbers: Mapping[str, float]) -> dict[str, Any]:
    from pipelines.package import packages

    return {
        "name": verdict.package,
        "title": packages()[verdict.package].title,
        "verdict": verdict.kind.value,
        "sentences": verdict.sentences,
        "key_numbers": verdict.key_numbers,
        "numbers": {name: round(value, 3) for name, value in numbers.items()},
    }


def _stack(stack: CineStack) -> dict[str, Any]:
    return {
        "view": stack.view,
        "phases": stack.phases,
        "slices": stack.slices,
        "rows": stack.pixels.shape[2],
        "columns": stack.pixels.shape[3],
        "pixel_spacing_mm": stack.geometry.pixel_spacing,
        "slice_pitch_mm": round(stack.geometry.pitch, 3),
        "slice_thickness_mm": stack.geometry.slice_thickness,
        "series_instance_uids": stack.series_instance_uids,
        "resampled_slices": stack.resampled_slices,
        "retrospective": stack.retrospective,
    }


def _omission(omission: Omission) -> dict[str, Any]:
    return {
        "reason": omission.reason,
        "detail": omission.detail,
        "series_instance_uid": omission.series_instance_uid,
        "instances": len(omission.sop_instance_uids),
    }


def _quality(assessment: QualityAssessment | None) -> dict[str, Any] | None:
    if assessment is None:
        return None
    return {
        "overall": assessment.overall,
        "usable": assessment.usable,
        "findings": [
            {
                "check": one.check,
                "stage": one.check.stage,
                "grade": one.grade,
                "sentence": one.sentence,
                "value": one.value,
                "unit": one.unit,
                "limit": one.limit,
                "slices": one.slices,
            }
            for one in assessment.findings
        ],
    }


def _refusals(findings: Findings) -> list[dict[str, Any]]:
    return [
        {"analysis": one.analysis, "reason": one.reason, "sentence": one.sentence, "because_of": one.because_of}
        for one in findings.refusals
    ]


def _show(document: Mapping[str, Any]) -> None:
    console.rule(document["study_instance_uid"])
    if document["failed"]:
        console.print(f"[red]failed[/red] {document['failed']}")
        return
    table(
        "Stacks",
        ["view", "phases>", "slices>", "pixel spacing mm", "pitch mm>", "series>"],
        (
            (
                stack["view"],
                stack["phases"],
                stack["slices"],
                " × ".join(f"{value:.2f}" for value in stack["pixel_spacing_mm"]),
                f"{stack['slice_pitch_mm']:.1f}",
                len(stack["series_instance_uids"]),
            )
            for stack in document["stacks"]
        ),
    )
    if document["omissions"]:
        table(
            "Left out",
            ["reason", "instances>", "detail"],
            ((one["reason"], one["instances"], one["detail"]) for one in document["omissions"]),
        )
    for one in document["analyses"]:
        title = f"{one['title'][:1].upper()}{one['title'][1:]}"
        if one["verdict"] in _WITH_RESULTS:
            table(
                title,
                ["", ">"],
                ((name, f"{value:.1f}") for name, value in one["numbers"].items()),
                caption="research use only, not for diagnosis",
            )
        for sentence in one["sentences"]:
            console.print(f"[yellow]{title}, {one['verdict']}[/yellow]: {sentence}")
    quality = document["quality"]
    if quality:
        concerns = [one for one in quality["findings"] if one["grade"].name in ("POOR", "UNUSABLE")]
        console.print(f"quality: {quality['overall'].name.lower()}")
        for one in concerns:
            console.print(f"  {one['check'].value}: {one['sentence']}")
    for one in document["rejected"]:
        console.print(f"[red]kept back by the gate[/red] {one['series_description']}: {'; '.join(one['problems'])}")
    counts = Counter(one["series_description"] for one in document["objects"])
    table("Objects", ["series", "objects>"], counts.items())
