"""The whole main job on the models and photographs that come with the product."""

from importlib import resources

from flows.guards import guarded_flow
from flows.pipeline import run_pipeline
from flows.steps import step
from flows.summary import Summary
from tasks.directions import RelevanceConfig

# Enough for models of 64 px; the published counts are for 1024 px.
_RELEVANCE = RelevanceConfig(num_images=12, num_statistics=4000, mode="fast")


@guarded_flow("demo")
def run_demo(output: str = "demo-output") -> Summary:
    """Align, invert, edit and judge the demo photographs by all three methods.

    Args:
        output: Folder for everything that is made.
    """
    demo = resources.files("demo")
    return step(run_pipeline)(
        str(demo / "photos"),
        str(demo / "prompts.csv"),
        output,
        run="demo",
        relevance=_RELEVANCE,
        shard_size=32,
    )
