"""Each stage against the published procedure, written plainly, on the same networks in one run."""
