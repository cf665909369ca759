"""Assets and bundle -> whether they fit, before a run."""

import time
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from flows.options import MachineStr
from flows.progress import console, printable, say
from flows.summary import Check, Summary
from tasks.bundles import DEMO_MODELS
from tasks.checks.doctor import diagnose
from tasks.checks.findings import Finding

_COLOURS = {"sound": "green", "suspicious": "yellow", "wrong": "red"}


def examine_assets(
    workspace: str,
    *,
    models: str = DEMO_MODELS,
    channels: int = 20,
    images: int = 8,
    device: MachineStr = "auto",
) -> Summary:
    """Check a bundle and the assets of a workspace against each other, before a run.

    Says of each whether it is sound, suspicious (a run works, look at the remedy first) or wrong (a
    run would fail, or edit nonsense): fingerprints, sizes, and what some style channels do to
    CLIP's embedding against what the direction store predicts. The exit code is 1 if something is
    wrong.

    Args:
        workspace: Folder or URL that holds all data.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        channels: Style channels to move and render.
        images: Images to move them on.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    began, findings = time.monotonic(), list[Finding]()
    with console.status("examining"):
        for finding in diagnose(workspace, models, device, channels, images):
            findings.append(finding)
            if not console.is_terminal:
                say(f"{finding.verdict}: {finding}")
    if console.is_terminal:
        console.print(_table(findings))
    counts = dict.fromkeys(_COLOURS, 0)
    for finding in findings:
        counts[finding.verdict] += 1
    facts = {"findings": [asdict(finding) for finding in findings]}
    return Check("doctor", workspace, counts, time.monotonic() - began, facts)


def _table(findings: list[Finding]) -> Table:
    table = Table("", "what", "got", "expected", "remedy")
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        sound = finding.verdict == "sound"
        wanted = ("", "") if sound else (finding.expected, finding.remedy)
        cells = (finding.what, finding.got, *wanted)
        escaped = (escape(printable(cell)) for cell in cells)
        table.add_row(f"[{colour}]{finding.verdict}[/]", *escaped)
    return table
