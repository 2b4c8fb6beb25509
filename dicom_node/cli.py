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
    export_corrected,
    fetch,
    invite,
    ledger,
    models,
    obstruction,
    phantom,
    quarantine,
    remodelling,
    send,
    serve,
    shadow,
    status,
    training,
    upgrade,
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
training.train_app.command("remodelling")(remodelling.train)
training.evaluate_app.command("remodelling")(remodelling.evaluate)
training.train_app.command("pattern")(disease_pattern.train)
training.evaluate_app.command("pattern")(disease_pattern.evaluate)
training.train_app.command("obstruction")(obstruction.train_obstruction)
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
