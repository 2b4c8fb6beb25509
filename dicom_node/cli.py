"""The command ``dicom-node``."""

from __future__ import annotations

import logging
import sys

import typer

from dicom_node.commands import (
    adopt,
    analyses,
    analyze,
    backup,
    check,
    conformance,
    delete,
    deliveries,
    demo,
    disease_pattern,
    doctor,
    enhancement,
    export_corrected,
    fetch,
    invite,
    ledger,
    long_axis,
    models,
    motion,
    obstruction,
    phantom,
    quarantine,
    remodelling,
    segmentation,
    send,
    serve,
    shadow,
    status,
    synthetic_enhancement,
    training,
    upgrade,
    volumes,
)
from dicom_node.commands.terminal import ExitCode
from dicom_node.errors import ConfigurationError, NodeError, PeerUnavailableError
from dicom_node.logs import configure_logging

__all__ = ["app", "main"]

app = typer.Typer(
    name="dicom-node",
    help="Receives cine cardiac MR, analyses it and returns SEG, SR and summary pages to the PACS. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(serve.reload)
app.command()(demo.demo)
app.command()(send.send)
app.command()(fetch.fetch)
app.command()(analyze.analyze)
app.command()(status.status)
app.command()(shadow.shadow)
app.command()(ledger.studies)
app.command()(ledger.jobs)
app.command()(ledger.explain)
app.command()(delete.delete)
app.add_typer(deliveries.deliveries_app, name="deliveries", no_args_is_help=True)
app.add_typer(quarantine.quarantine_app, name="quarantine")
app.command()(adopt.adopt)
app.command()(export_corrected.export_corrected)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(upgrade.upgrade)
app.command()(check.check)
app.command()(conformance.conformance)
app.command()(invite.invite)
app.command()(doctor.doctor)
app.command()(analyses.analyses)
app.command()(models.models)
app.command()(phantom.phantom)
training.train_app.command("segmentation")(segmentation.train_segmentation)
training.train_app.command("registration")(motion.train_registration)
training.train_app.command("long-axis")(long_axis.train_long_axis)
training.train_app.command("enhancement")(enhancement.train_enhancement)
training.train_app.command("synthetic-enhancement")(synthetic_enhancement.train_synthetic_enhancement)
training.train_app.command("scar-sequence")(synthetic_enhancement.train_scar_sequence)
training.train_app.command("synthetic-calibration")(synthetic_enhancement.train_synthetic_calibration)
training.train_app.command("remodelling")(remodelling.train)
training.train_app.command("pattern")(disease_pattern.train)
training.train_app.command("obstruction")(obstruction.train_obstruction)
training.evaluate_app.command("long-axis")(long_axis.evaluate_long_axis)
training.evaluate_app.command("enhancement")(enhancement.evaluate_enhancement)
training.evaluate_app.command("segmentation")(segmentation.evaluate_segmentation)
training.evaluate_app.command("motion")(motion.evaluate_motion)
training.evaluate_app.command("volumes")(volumes.evaluate_volumes_of_phantoms)
training.evaluate_app.command("lge")(synthetic_enhancement.evaluate_lge)
training.evaluate_app.command("remodelling")(remodelling.evaluate)
training.evaluate_app.command("pattern")(disease_pattern.evaluate)
training.evaluate_app.command("obstruction")(obstruction.evaluate_obstruction)
app.add_typer(training.train_app, name="train")
app.add_typer(training.evaluate_app, name="evaluate")


def main() -> None:
    """Run the command line; an error of the taxonomy, or of a file, becomes one line and an exit code."""
    # Standard output belongs to the answer of a command; `serve` and its processes set their own log.
    configure_logging(json=False, level=logging.WARNING)
    try:
        app()
    except NodeError as error:
        typer.echo(f"dicom-node: {error}", err=True)
        if isinstance(error, ConfigurationError):
            sys.exit(ExitCode.USAGE)
        sys.exit(ExitCode.PEER if isinstance(error, PeerUnavailableError) else ExitCode.FAILED)
    except OSError as error:
        # A folder that cannot be written, a file that is gone: the administrator's to mend, not a defect.
        if error.filename is None:
            raise
        typer.echo(f"dicom-node: {error.filename}: {error.strerror}", err=True)
        sys.exit(ExitCode.FAILED)
