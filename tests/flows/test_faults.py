"""The fault program, small: nothing is lost on a store that fails every tenth request."""

from benchmarks.endurance import faults


def test_a_faulty_store_gives_the_same_run(s3_endpoint, models):
    upstream = s3_endpoint.meta.endpoint_url
    faults.make_bucket(upstream)
    outcome = faults.measure(upstream, models, faults.Size(0, 3, 3), 0.1, seed=1, read_timeout=1.0)
    assert outcome.checks == dict.fromkeys(outcome.checks, True), outcome
