"""The documentation as a site: every link leads somewhere, and the tutorials do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"


def site(folder: Path, configuration: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", configuration, "--site-dir", folder],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )


def test_the_site_is_built_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    built = site(tmp_path / "site")
    assert built.returncode == 0, built.stderr
    overview = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="installation/"' in overview
    architecture = (tmp_path / "site" / "architecture" / "index.html").read_text(encoding="utf-8")
    # What stands beside the folder of documentation in the repository is a page of the site.
    assert 'href="../contributing/"' in architecture
    # Nothing of it is fetched from elsewhere, but for the drawing of diagrams.
    for page in (tmp_path / "site").rglob("*.html"):
        found = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https?://[^"]+)"', page.read_text(encoding="utf-8"))
        assert [one for one in found if "fonts" in one] == [], page
