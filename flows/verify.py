"""A run -> what is wrong with it."""

import time
from collections import Counter
from collections.abc import Iterable

from flows.guards import guarded_flow
from flows.options import MachineStr, NaturalInt
from flows.progress import progress_bar, say
from flows.summary import MOST_IN_JSON, Check, Summary
from tasks.checks.findings import Finding
from tasks.checks.verification import Verification
from tasks.run_tables import find_run
from tasks.store.folders import Folder


class Verified(Check):
    """The end of a verification."""

    @property
    def failed(self) -> bool:
        """Whether something is wrong, or not done: lost results look as if never made."""
        return super().failed or self.counts.get("waiting", 0) > 0


@guarded_flow("verify-run")
def verify_run(
    workspace: str,
    run: str = "run",
    *,
    models: str = "",
    sample: NaturalInt = 12,
    seed: NaturalInt = 0,
    device: MachineStr = "auto",
) -> Summary:
    """Recheck every checksum and count of a run, and render a sample of its edits again.

    Every finding says what was looked at, what it is, what it should be, and what to do. The exit
    code is 1 if something is wrong, or if planned rows have no result yet (`waiting`).

    Args:
        workspace: Folder or URL that holds all data.
        run: Name of the run, or its URL.
        models: Bundle of weights; the one that the run names where empty.
        sample: Edits to render again from the stored latents, as many of each method. On the
            device that made them, pixels must be equal.
        seed: Which edits.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    began, told = time.monotonic(), list[str]()
    folder = Folder(find_run(workspace, run))
    check = Verification(folder.url, device, models, sample, seed)
    verdicts = Counter[str]()

    def tell(findings: Iterable[Finding]) -> None:
        for finding in findings:
            say(str(finding))
            told.extend([str(finding)] if len(told) < MOST_IN_JSON else [])
            verdicts[finding.verdict] += 1

    tell(check.check_assets())
    tell(check.check_faces())
    tell(check.check_leftovers())
    with progress_bar("results", check.rows) as bar:
        tell(check.check_results(bar.advance))
    with progress_bar("latents", len(check.images)) as bar:
        tell(check.check_latents(bar.advance))
    with progress_bar("rendering", check.sampled_shards) as bar:
        tell(check.check_edits(bar.advance))
    counts = dict(check.counts) | {name: verdicts[name] for name in ("suspicious", "wrong")}
    sound = "all is sound" if not told else "what is done is sound"
    return Verified(
        "verify",
        folder.url,
        counts,
        time.monotonic() - began,
        {"findings": told},
        aside="" if verdicts["wrong"] else sound,
    )
