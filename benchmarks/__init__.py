"""Each stage against the published procedure, written plainly, on the same networks in one run."""

from flows.environment import set_defaults

# Before any of them imports Prefect.
set_defaults()
