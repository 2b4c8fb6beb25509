"""How Alembic reaches the ledger: over the connection that the caller holds open and locked."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from storage.schema import Base, UtcDateTime


def _render(kind: str, item: Any, _autogenerate: AutogenContext) -> str | Literal[False]:
    # A migration must not change when the schema module does.
    return "sa.DateTime()" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_item=_render
)
context.run_migrations()
