"""The command `styleclip`. Every command is a flow or a task; their signatures are its options."""

import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from flows.environment import set_defaults, set_metrics_file

set_defaults()

from prefect import Flow  # noqa: E402

from flows.align import align_photos  # noqa: E402
from flows.cancelling import StageCancelled, mark_cancelled  # noqa: E402
from flows.demo import run_demo  # noqa: E402
from flows.deploy import deploy_flows  # noqa: E402
from flows.doctor import examine_assets  # noqa: E402
from flows.edit import edit_dataset  # noqa: E402
from flows.evaluate import evaluate_run  # noqa: E402
from flows.examples import add_examples  # noqa: E402
from flows.forget import forget_image  # noqa: E402
from flows.interchange import (  # noqa: E402
    export_directions,
    export_latents,
    import_directions,
    import_latents,
)
from flows.interruption import INTERRUPTED, end_soon_when_interrupted, leave  # noqa: E402
from flows.invert import invert_faces  # noqa: E402
from flows.logs import leave_errors_to_command  # noqa: E402
from flows.mappers import train_mappers  # noqa: E402
from flows.pipeline import run_pipeline  # noqa: E402
from flows.progress import console, printable, say  # noqa: E402
from flows.relevance import build_relevance  # noqa: E402
from flows.summary import Summary  # noqa: E402
from flows.tables import build_edit_manifest, validate_edit_manifest  # noqa: E402
from flows.tune import tune_strengths  # noqa: E402
from flows.verify import verify_run  # noqa: E402
from flows.weights import add_weights, convert_weights, list_weights, verify_weights  # noqa: E402
from tasks.provenance import CODE_VERSION  # noqa: E402
from tasks.redaction import redact  # noqa: E402
from tasks.runs import FAILURES, RETRY_ALL  # noqa: E402

USER_ERROR, STAGE_FAILED = 2, 1

app = App(
    name="styleclip",
    help="Edit large sets of face photographs by text with StyleCLIP.",
    version=CODE_VERSION,
    result_action="return_value",
)
app.command(run_demo, name="demo")
app.command(run_pipeline, name="run")
app.command(align_photos, name="align")
app.command(invert_faces, name="invert")
app.command(build_relevance, name="relevance")
app.command(train_mappers, name="train-mapper")
app.command(tune_strengths, name="tune")
app.command(edit_dataset, name="edit")
app.command(evaluate_run, name="evaluate")
app.command(verify_run, name="verify")
app.command(examine_assets, name="doctor")
app.command(forget_image, name="forget")
app.command(deploy_flows, name="deploy")

manifest = App(name="manifest", help="Build and check manifests.", result_action="return_value")
manifest.command(build_edit_manifest, name="build")
manifest.command(validate_edit_manifest, name="validate")
app.command(manifest)

weights = App(name="weights", help="Bundles of weights.", result_action="return_value")
weights.command(list_weights, name="list")
weights.command(add_weights, name="add")
weights.command(verify_weights, name="verify")
weights.command(convert_weights, name="convert")
app.command(weights)

latents = App(
    name="latents", help="Latents from and for other tools.", result_action="return_value"
)
latents.command(import_latents, name="import")
latents.command(export_latents, name="export")
latents.command(import_directions, name="import-directions")
latents.command(export_directions, name="export-directions")
app.command(latents)

app.register_install_completion_command()
add_examples(app)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    json_output: Annotated[bool, Parameter(name="--json", negative=())] = False,
    trace: Annotated[bool, Parameter(negative=())] = False,
    server: bool = True,
    metrics: str = "",
) -> int:
    """Run a command.

    Args:
        tokens: The command and its arguments.
        json_output: Print the result as one line of JSON.
        trace: Show where in the code an error arose.
        server: Let a Prefect server know of the run, the embedded one where none is configured.
        metrics: File to append a line of JSON to for every shard, see docs/operating.md.
    """
    if metrics:
        set_metrics_file(str(Path(metrics).resolve()))
    try:
        _refuse_credentials(tokens)
        result = _run([*_with_statuses(tokens)], server)
    except KeyboardInterrupt:
        return INTERRUPTED
    except StageCancelled as error:
        mark_cancelled(error)
        say(str(error))
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError) as error:
        if trace:
            traceback.print_exc()
        console.print(f"[bold red]error[/] {type(error).__name__}", end=": ")
        say(redact(str(error)))
        return STAGE_FAILED if isinstance(error, RuntimeError) else USER_ERROR
    if isinstance(result, Summary):
        line = printable(result.line)
        print(json.dumps(asdict(result)) if json_output else line)  # noqa: T201
        return 0 if not result.failed else STAGE_FAILED
    if result is not None:
        _show(result, json_output)
    return 0


def _run(tokens: list[str], server: bool) -> Any:
    """Run a command; one worker of several needs no server."""
    command, given, _ = app.parse_args(tokens)
    if isinstance(command, Flow) and (given.arguments.get("worker") or not server):
        command = command.fn
    return command(*given.args, **given.kwargs)


def _with_statuses(tokens: Sequence[str]) -> Iterator[str]:
    """Let `--retry-failed` stand alone, for all statuses, or be followed by some."""
    for word, following in zip(tokens, [*tokens[1:], ""], strict=True):
        yield word
        if word == "--retry-failed" and not set(following.split(",")) & {RETRY_ALL, *FAILURES}:
            yield RETRY_ALL


def _refuse_credentials(tokens: tuple[str, ...]) -> None:
    """Stop before Prefect stores the parameters of a flow."""
    for token in tokens:
        if redact(token) != token:
            raise ValueError(
                f"argument: got {redact(token)!r} with credentials in it, expected none; give them "
                "in the environment, and signed URLs of photographs in a listing"
            )


def _show(result: Any, as_json: bool) -> None:
    print(json.dumps(result) if as_json else result)  # noqa: T201


def main() -> None:
    """Run the command line and exit with its status."""
    end_soon_when_interrupted()
    if "--trace" not in sys.argv:
        leave_errors_to_command()
    status = app.meta()
    if status == INTERRUPTED:
        leave()
    sys.exit(status)


if __name__ == "__main__":
    main()
