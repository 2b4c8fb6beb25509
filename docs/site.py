"""Hooks of MkDocs: README, CONTRIBUTING and CHANGELOG are pages of the site, too, and links follow them there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""What stands beside the folder of documentation, and as which page."""
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that stand outside the folder of documentation."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Files, **_: Any) -> str:
    """Let links lead to pages of the site; what is no page of it, such as code, is named and not linked."""
    uri = page.file.src_uri
    source = next((path for path, name in PAGES.items() if name == uri), f"docs/{uri}")
    here = (ROOT / source).parent
    depth = "../" * uri.count("/")

    def followed(match: re.Match[str]) -> str:
        text, link = match.groups()
        path, hash_, anchor = link.partition("#")
        if not path or "://" in link or link.startswith("mailto:"):
            return match[0]
        target = (here / path).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[0]
        name = target.relative_to(ROOT).as_posix()
        if name in PAGES:
            return f"[{text}]({depth}{PAGES[name]}{hash_}{anchor})"
        inside = target.is_relative_to(ROOT / "docs")
        if inside and files.get_file_from_path(target.relative_to(ROOT / "docs").as_posix()) is not None:
            return f"[{text}]({depth}{target.relative_to(ROOT / 'docs').as_posix()}{hash_}{anchor})"
        return text if f"`{name}`" in text or name in text else f"{text} (`{name}`)"

    return _LINK.sub(followed, markdown)
