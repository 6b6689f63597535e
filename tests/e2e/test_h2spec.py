"""h2spec on the transport of KEYFOLD_TRANSPORT=asgi: its checks of RFC 7540 and RFC 7541."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from e2e.conftest import StartServer
from e2e.server import ROOT
from e2e.test_interop import made

PAGE: Final = ROOT / "docs" / "transports.md"


def test_h2spec(start_server: StartServer, tmp_path: Path) -> None:
    """The server does what h2spec expects, except in the sections that docs/transports.md lists."""
    known = set(re.findall(r"^- h2spec ([0-9.]+):", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert known
    server = start_server(KEYFOLD_TRANSPORT="asgi")
    host, _, port = server.target.rpartition(":")
    report = tmp_path / "report.xml"
    # It sends requests that are not gRPC; that they are refused is answer enough for it.
    told = subprocess.run(
        [made("h2spec") / "h2spec", "-h", host, "-p", port, "-j", report],
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    cases = list(ET.parse(report).iter("testcase"))
    assert len(cases) > 140, told.stdout
    failed = [case for case in cases if len(case)]
    sections = {str(case.get("package")).removeprefix("http2/") for case in failed}
    assert sections <= known, told.stdout
    assert "Traceback" not in server.log()
    assert "SERVING" in server.command("health", "--target", server.target)
