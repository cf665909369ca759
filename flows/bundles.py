"""What a bundle of weights names: apart from `flows.weights`, since a list waits for no torch."""

from tasks.bundles import DEMO_MODELS, describe_bundle


def list_weights(models: str = DEMO_MODELS) -> list[dict[str, str]]:
    """List the networks of a bundle.

    Args:
        models: The URL of its JSON file, or `demo`.
    """
    return describe_bundle(models)
