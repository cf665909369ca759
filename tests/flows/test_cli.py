"""The command line: results on stdout, all else on stderr, and no traceback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image
from prefect import flow, flow_engine
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.engine import capture_sigterm

from flows.cli import _with_statuses, app, start
from flows.commands import COMMANDS
from flows.interchange import import_latents
from flows.interruption import keep_signals
from flows.mistyped import refuse_unknown
from flows.signatures import options
from manifests.schemas import FACE_FAILURES, FACES, LATENT_FAILURES, RESULT_FAILURES
from tasks.models import best_device
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger

PHOTOS = Path(__file__).parents[2] / "demo" / "photos"


def call(capsys, *words: str) -> tuple[int, str, str]:
    status = start(list(words))
    shown = capsys.readouterr()
    return status, shown.out, shown.err


MISTAKEN = "image_id,target_prompt,method,alpha\nanna,a smile,globl,4\nanna,a smile,global,four\n"


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> None:
    """Go to a folder with all that commands read."""
    place = tmp_path / "inputs"
    for name in ("photos", "ws"):
        (place / name).mkdir(parents=True)
        (place / name / "anna.jpg").write_bytes(b"")
    (place / "edits.csv").write_text("image_id,target_prompt,method,alpha\nanna,old,global,4\n")
    (place / "prompts.csv").write_text("target_prompt\nold\n")
    monkeypatch.chdir(place)


@pytest.fixture
def mistaken(tmp_path) -> str:
    path = tmp_path / "edits.csv"
    path.write_text(MISTAKEN)
    return str(path)


def test_rows_without_a_mistake_are_counted(capsys, tmp_path):
    (tmp_path / "edits.csv").write_text(MISTAKEN + "anna,a smile,global,4\n")
    _, out, _ = call(capsys, "manifest", "validate", str(tmp_path / "edits.csv"))
    assert "1 sound, 2 failed" in out


def test_every_mistake_of_a_manifest_is_told(capsys, mistaken):
    status, out, err = call(capsys, "manifest", "validate", mistaken)
    assert status == 2
    assert "row 2, column method: got 'globl'" in err
    assert "row 3, column alpha: got 'four', expected a finite number" in err
    assert "2 failed" in out


def test_rows_with_several_mistakes_are_counted_once(capsys, tmp_path):
    (tmp_path / "edits.csv").write_text(MISTAKEN.replace("globl,4", "globl,four"))
    _, out, err = call(capsys, "manifest", "validate", str(tmp_path / "edits.csv"))
    assert err.count("row 2, column") == 2
    assert "2 failed" in out
    assert "(3 mistakes)" in out


def test_rows_that_take_the_default_alpha_are_counted(capsys, tmp_path):
    (tmp_path / "edits.csv").write_text(MISTAKEN.replace("globl,4", "global,"))
    _, out, _ = call(capsys, "manifest", "validate", str(tmp_path / "edits.csv"))
    assert "(1 with the default alpha, 4 for global, 1 for mapper, 1 for optimize);" in out
    (tmp_path / "short.csv").write_text("image_id,target_prompt\nanna,old\nbob,old\n")
    _, out, _ = call(capsys, "--json", "manifest", "validate", str(tmp_path / "short.csv"))
    assert json.loads(out)["facts"]["default_alphas"] == 2


def test_help_of_a_group_has_the_examples_of_its_commands(capsys):
    _, out, _ = call(capsys, "weights", "--help")
    assert "styleclip weights verify ffhq.json" in out
    assert "styleclip demo" not in out


def test_help_lists_commands_as_they_are_used_and_no_empty_defaults(capsys):
    _, out, _ = call(capsys, "--help")
    places = [out.index(f"│ {name} ") for name in ("run", "align", "edit", "evaluate", "manifest")]
    assert places == sorted(places)
    out = " ".join(call(capsys, "run", "--help")[1].replace("│", " ").split())
    assert "[default: largest]" in out
    assert "[default: 0.0]" in out
    assert '[default: ""]' not in out
    assert "[default: False]" not in out
    assert "--no-update" not in out


def test_networks_of_a_bundle_are_listed_in_lines(capsys):
    _, out, _ = call(capsys, "weights", "list")
    assert out.startswith("role: generator\nurl: ")
    _, out, _ = call(capsys, "--json", "weights", "list")
    assert [network["role"] for network in json.loads(out)][:2] == ["generator", "encoder"]


def test_no_command_at_all_shows_the_help(capsys):
    for words in ((), ("--json",)):
        status, out, _ = call(capsys, *words)
        assert (status, "Usage: styleclip COMMAND" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["edit"], "got no WORKSPACE; `styleclip edit --help` shows its arguments"),
        (["edit", "ws", "edits.csv", "--workers"], "got --workers without a value"),
        (
            ["edit", "ws", "edits.csv", "--modles", "m"],
            "got --modles, which edit does not take (did you mean --models?);",
        ),
        (["manifest", "check"], "one of build, validate (did you mean validate?);"),
        (["weights", "check"], "(did you mean verify?);"),
        (["manifest", "biuld"], "one of build, validate (did you mean build?);"),
        (["edi"], "got edi, which is no command, expected one of demo, run, align"),
        (["edit", "--no-update"], "which edit does not take (did you mean --update?);"),
        (["--no-sever", "align"], "got --no-sever, before the command, expected one of --json"),
        (["--no-sever", "align"], "(did you mean --no-server?);"),
        (["edit", "ws", "edits.csv", "--batch-size", "0"], "--batch-size. Must be >= 1;"),
        (["run", "photos", "prompts.csv", "ws", "--workers=-2"], "--workers. Must be >= 1;"),
        (["verify", "ws", "--sample=-3"], "--sample. Must be >= 0;"),
    ],
)
@pytest.mark.usefixtures("inputs")
def test_what_is_wrong_with_the_arguments_is_told_with_where_to_look(capsys, words, told):
    with pytest.raises(SystemExit) as ended:
        start(words)
    assert ended.value.code == 2
    err = " ".join(capsys.readouterr().err.split())
    assert told in err
    assert "--help` shows its arguments and examples" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["align", "{place}/photos", "{place}/ws"], "photos, which is not there"),
        (["edit", "{place}/ws", "{place}/tpyo.csv"], "typo.csv?), expected a CSV or Parquet"),
        (["align", "{place}/runs", "{place}/ws"], "runs, in which there are none; expected a fo"),
        (["edit", "{place}/ws", "{place}/edits.csv"], "made with `styleclip manifest build"),
        (["edit", "ws", "edits.csv", "--models", "{place}/b.json"], "begins one"),
        (["edit", "ws", "edits.csv", "--engine", "treads"], "expected threads"),
        (["edit", "{place}/ws", "edits.csv", "--run", "../x"], "a name without slashes, as in"),
        (
            ["run", "photos", "prompts.csv", "{place}/ws", "--run", ".."],
            "a name without slashes, as in",
        ),
        (["tune", "{place}/ws", "t.parquet", "--prompts", "{place}/p.csv"], "p.csv, which is not"),
        (["edit", "{place}", "{place}/typo.csv"], "row 2, column method: got 'globl'"),
        (["edit", "{place}", "{place}/asked.csv"], "WORKSPACE MANIFEST --prompts TABLE` make a"),
        (
            ["run", "{place}/typo.csv", "{place}", "{place}/ws"],
            "expected a CSV or Parquet file; are two",
        ),
        (
            ["run", "{place}/typo.csv", "{place}/typo.csv", "w"],
            "a manifest, which `styleclip edit`",
        ),
        (["train-mapper", "{place}/ws", "a hat", "hats.csv"], "got the file hats.csv, expected a"),
        (["train-mapper", "{place}/ws", "{place}/typo.csv"], "typo.csv, expected a text such as"),
        (["tune", "ws", "t.parquet", "--target", "p.csv"], "got the file p.csv, expected"),
        (
            ["tune", "{place}", "t.parquet"],
            "expected one of --prompts TABLE and --target PROMPT",
        ),
        (["tune", "{place}/ws", "t.csv", "--target", "a hat"], "a name that ends with .parquet"),
        (["evaluate", "{place}", "--run", "b"], "runs there: autumn, summer"),
        (["evaluate", "{place}/ws", "--run", "b"], "ws, which is not there or empty; `styleclip"),
        (["invert", "{place}/ws"], "ws, which is not there or empty; `styleclip align PHOTOS"),
        (["doctor", "{place}/ws"], "ws, which is not there or empty; `styleclip align PHOTOS"),
        (["verify", "{place}", "--run", "b"], "runs there: autumn, summer"),
        (["verify", "none", "--run", "{place}/runs/b"], "runs there: autumn, summer"),
        (["evaluate", "{place}", "autumn"], "is told by an option, as in `--run autumn`"),
        (["weights", "convert", "{place}/tpyo.csv", "x.pt"], "which is no file (did you mean"),
        (["latents", "import", "{place}/ws", "none.npy"], "source: got none.npy, which is no f"),
        (["invert", "{place}/runs/autumn"], "autumn, which is not there or empty; `styleclip"),
    ],
)
@pytest.mark.usefixtures("inputs")
def test_what_is_not_there_is_told_before_a_server_is_started(
    capsys, monkeypatch, tmp_path, words, told
):
    def start_server(*_: object) -> None:
        raise AssertionError("a server")

    monkeypatch.setattr("flows.embedded_server.end_server_with_command", start_server)
    for name in ("autumn", "summer"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "typo.csv").write_text(MISTAKEN)
    (tmp_path / "asked.csv").write_text("target_prompt\na smile\n")
    status, _, err = call(capsys, *(word.format(place=tmp_path) for word in words))
    assert status == 2
    assert told in " ".join(err.split())
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    "texts", [["a hat", "a smile"], ["--target", "a hat", "--target", "a smile"]]
)
def test_targets_of_train_mapper_are_texts(capsys, tmp_path, models, texts):
    words = [str(tmp_path / "ws"), *texts, "--steps", "1", "--batch-size", "1"]
    status, out, _ = call(capsys, "train-mapper", *words, "--models", models, "--device", "cpu")
    assert (status, "mappers: 2 ready" in out) == (0, True)


def test_a_pattern_that_the_shell_took_is_told_of(capsys, tmp_path):
    photos = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for photo in photos:
        Image.new("RGB", (40, 40)).save(photo)
    with pytest.raises(SystemExit):
        call(capsys, "align", *photos, str(tmp_path / "ws"))
    said = " ".join(capsys.readouterr().err.split())
    assert "a pattern stands in quotes, as in 'photos/*.jpg'" in said


@pytest.mark.parametrize(("words", "coarse"), [(["--no-coarse"], False), (["--coarse"], True)])
def test_levels_of_a_mapper_are_switched_on_and_off(words, coarse):
    _, given, _ = app.parse_args(["train-mapper", "ws", "a hat", *words])
    assert given.arguments["mapper"].coarse is coarse


def test_a_workspace_without_latents_is_refused_before_directions(capsys, tmp_path, models):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "anna.png")
    workspace, edits = str(tmp_path / "ws"), str(tmp_path / "edits.csv")
    call(capsys, "align", f"{tmp_path}/photos", workspace, "--no-server")
    Path(edits).write_text("image_id,target_prompt\nanna,sad\n")
    words = ["edit", workspace, edits, "--models", models, "--no-server"]
    status, _, err = call(capsys, *words)
    assert (status, "without latents for these networks" in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "ws" / "directions").exists()


def test_a_worker_needs_nothing_of_what_was_prepared_elsewhere(capsys, tmp_path, models):
    words = [str(tmp_path), str(tmp_path / "none.parquet"), "--models", models]
    status, _, err = call(capsys, "edit", *words, "--worker", "0/2")
    assert (status, "is not prepared" in " ".join(err.split())) == (2, True)
    words = [str(tmp_path / "none"), str(tmp_path)]
    status, _, err = call(capsys, "align", *words, "--worker", "0/2")
    assert (status, "is not prepared" in " ".join(err.split())) == (2, True)


def test_photographs_without_a_usable_face_are_no_success_of_invert(capsys, tmp_path, models):
    (tmp_path / "nobody.png").write_bytes(b"no picture")
    workspace = str(tmp_path / "ws")
    status, _, err = call(capsys, "--no-server", "align", str(tmp_path), workspace)
    assert (status, "got no usable face in any photograph" in " ".join(err.split())) == (2, True)
    status, _, err = call(capsys, "--no-server", "invert", workspace, "--models", models)
    assert (status, "got no usable face" in " ".join(err.split())) == (2, True)


def test_a_workspace_that_cannot_be_made_is_told_with_what_is_expected(capsys, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"no picture")
    (tmp_path / "file").touch()
    words = ["align", str(tmp_path / "photo.png"), str(tmp_path / "file")]
    status, _, err = call(capsys, "--no-server", *words)
    assert (status, "where no file can be made" in " ".join(err.split())) == (2, True)


@pytest.mark.parametrize(
    "words",
    [("align", str(PHOTOS), "s3://nobucket/ws"), ("faces", "s3://nobucket/ws")],
)
def test_a_bucket_that_there_is_not_is_a_mistake_of_the_command(capsys, s3_endpoint, words):
    status, _, err = call(capsys, "--no-server", *words)
    assert (status, "s3://nobucket: there is no such bucket" in " ".join(err.split())) == (2, True)


def test_a_device_that_is_not_here_is_refused_before_any_work(capsys, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("target_prompt\nan old face\n")
    device = "mps" if best_device().startswith("cuda") else "cuda"
    words = ["run", str(PHOTOS), str(prompts), str(tmp_path / "ws"), "--device", device]
    status, _, err = call(capsys, "--no-server", *words)
    told = " ".join(err.split())
    assert (status, f"device: got '{device}', expected auto, cpu" in told) == (2, True)
    assert "README" in told
    assert not (tmp_path / "ws").exists()


def test_networks_that_a_bundle_lacks_are_told(capsys, tmp_path, models):
    values = json.loads(Path(models).read_text())
    folder = Path(models).parent
    named = {role: entry | {"uri": str(folder / entry["uri"])} for role, entry in values.items()}
    del named["clip"], named["identity"]
    (tmp_path / "half.json").write_text(json.dumps(named))
    status, out, err = call(capsys, "weights", "verify", str(tmp_path / "half.json"))
    assert (status, "2 sound, 2 wrong" in out) == (1, True)
    assert "half.json names no clip, identity, which `styleclip run` needs" in " ".join(err.split())


def test_bash_completes_files_besides_options():
    script = app.generate_completion(shell="bash")  # noqa: S604
    assert script.rstrip().endswith("complete -o bashdefault -o default -F _styleclip styleclip")


def test_zsh_completes_files_where_nothing_else_is_known():
    script = app.generate_completion(shell="zsh")  # noqa: S604
    lines = [line.strip(" \\").strip("'\"") for line in script.splitlines()]
    arguments = [line for line in lines if re.match(r"\d:(?! :->)", line)]
    assert len(arguments) > 30
    assert all(line.endswith(":_files") for line in arguments)
    assert any(re.match(r"\*--models\[.*\]:models:_files$", line) for line in lines)
    assert any(line.endswith(":mode:(exact fast published imported)") for line in lines)


def test_an_engine_that_needs_a_server_is_refused_before_any_work(capsys, tmp_path):
    words = ["align", str(PHOTOS), str(tmp_path / "ws"), "--engine", "processes"]
    status, _, err = call(capsys, "--no-server", *words)
    assert (status, "without a server, expected threads" in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "ws").exists()


def test_a_workspace_without_faces_is_a_mistake_and_is_not_made(capsys, tmp_path, models):
    words = ["invert", str(tmp_path / "wsnone"), "--models", models]
    status, _, err = call(capsys, "--no-server", *words)
    assert (status, "wsnone, which is not there" in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "wsnone").exists()
    (tmp_path / "wsnone").mkdir()
    (tmp_path / "wsnone" / "anna.txt").touch()
    status, _, err = call(capsys, "--no-server", *words)
    assert (status, "got no faces" in " ".join(err.split())) == (2, True)


def test_photographs_that_cannot_be_used_are_named(capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(PHOTOS / "astronaut.png", tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    words = ["--no-server", "align", str(tmp_path / "photos"), str(tmp_path / "ws")]
    status, out, err = call(capsys, *words)
    assert (status, "1 ok, 1 unreadable" in out) == (0, True)
    assert "photos/broken.jpg: unreadable: " in "".join(err.split("\n"))
    # Mended under its name.
    shutil.copy(PHOTOS / "astronaut.png", tmp_path / "photos" / "broken.jpg")
    _, out, err = call(capsys, *words)
    assert "nothing left to do" in out
    assert "from before (`--retry-failed` looks again): " in " ".join(err.split())
    assert "1 ok" in call(capsys, *words, "--retry-failed")[1]
    assert "from before" not in call(capsys, *words)[2]
    # Beside faces that are there, as much as one without a face.
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    status, out, _ = call(capsys, *words)
    assert (status, "1 unreadable" in out) == (0, True)


@pytest.mark.parametrize("broken", [5, 6])
def test_it_is_said_where_more_photographs_are_unusable_than_are_named(capsys, tmp_path, broken):
    (tmp_path / "photos").mkdir()
    for number in range(broken):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(b"no picture")
    workspace = str(tmp_path / "ws")
    _, _, err = call(capsys, "--no-server", "align", str(tmp_path / "photos"), workspace)
    more = f"align: ... and more: `styleclip faces {workspace}` names all"
    assert (err.count(".jpg: unreadable: "), more in err) == (5, broken > 5)


def test_prompts_are_read_before_the_work(capsys, tmp_path, models):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    (tmp_path / "prompts.csv").write_text("taget_prompt\na smile\n")
    words = [str(tmp_path / name) for name in ("photos", "prompts.csv", "ws")]
    status, _, err = call(capsys, "run", *words, "--models", models)
    assert (status, "did you mean 'target_prompt'" in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "ws").exists()


def test_json_is_one_line_for_programs(capsys, mistaken):
    status, out, _ = call(capsys, "--json", "manifest", "validate", mistaken)
    assert json.loads(out)["counts"] == {"sound": 0, "failed": 2}
    assert status == 2


def test_what_is_no_manifest_is_so_for_edit_and_validate_alike(capsys, tmp_path):
    (tmp_path / "edits.csv").write_text("image_id,target_prompt\n")
    told = "edits.csv: manifest: got no rows, expected at least one edit"
    for words in (["manifest", "validate"], ["edit", str(tmp_path)]):
        status, out, err = call(capsys, *words, str(tmp_path / "edits.csv"))
        assert (status, out, told in " ".join(err.split())) == (2, "", True)


def test_a_missing_file_is_an_error_without_a_traceback(capsys, tmp_path):
    status, out, err = call(capsys, "manifest", "validate", str(tmp_path / "none.csv"))
    assert (status, out) == (2, "")
    assert "which is not there" in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "url", ["s3://anna:hunter2@host/ws", "https://host/a.jpg?X-Amz-Signature=hunter2"]
)
def test_credentials_among_the_arguments_are_refused_and_not_repeated(capsys, url):
    status, out, err = call(capsys, "align", url, "ws")
    assert (status, out) == (2, "")
    assert "give them in the environment" in " ".join(err.split())
    assert "hunter2" not in err


def test_weights_are_listed_and_verified(capsys, models):
    status, out, _ = call(capsys, "--json", "weights", "list", models)
    assert status == 0
    assert [row["role"] for row in json.loads(out)] == ["generator", "encoder", "clip", "identity"]
    status, out, _ = call(capsys, "weights", "verify", models)
    assert (status, "4 sound" in out) == (0, True)


def test_a_damaged_checkpoint_fails_the_check(capsys, models, tmp_path):
    (tmp_path / "generator.pt").write_bytes(b"\x89PNG not a checkpoint")
    bundle = str(tmp_path / "bundle.json")
    words = ["weights", "add", "generator", "generator.pt", "--models", bundle]
    status, _, err = call(capsys, *words)
    told = "".join(err.split())
    assert (status, f"{tmp_path}/generator.pt:" in told, "BytesIO" in told) == (2, True, False)
    (tmp_path / "bundle.json").write_text(json.dumps({"generator": {"uri": "generator.pt"}}))
    status, out, _ = call(capsys, "--json", "weights", "verify", bundle)
    assert status == 1
    assert "no checkpoint" in json.loads(out)["facts"]["weights"][0]["error"]


@pytest.mark.parametrize(
    "command", ["run", "align", "invert", "relevance", "train-mapper", "edit", "evaluate"]
)
def test_every_command_explains_every_option(capsys, command):
    app([command, "--help"])
    assert "Folder or URL that holds all data" in " ".join(capsys.readouterr().out.split())


def test_forgetting_asks_first_and_tells_what_is_left(capsys, tmp_path):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "anna.png").write_bytes(b"")
    (tmp_path / "edits.csv").write_text("image_id\nanna\n")
    status, _, err = call(capsys, "forget", str(tmp_path), "anna")
    assert (status, "expected one, or --yes" in err) == (2, True)
    assert (tmp_path / "crops" / "anna.png").exists()
    status, out, err = call(capsys, "--json", "forget", str(tmp_path), "anna", "--yes")
    assert (status, json.loads(out)["counts"]) == (1, {"face rows": 0, "files": 1, "left": 1})
    assert "edits.csv:itscontent" in "".join(err.split())
    (tmp_path / "edits.csv").unlink()
    assert call(capsys, "forget", str(tmp_path), "anna", "--yes")[0] == 0


def test_of_a_face_that_nobody_knows_nothing_is_asked(capsys, tmp_path):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "anna.png").write_bytes(b"")
    status, out, err = call(capsys, "forget", str(tmp_path), "berta")
    assert (status, "berta: no face of this workspace has this name" in err) == (0, True)
    assert out.startswith("forget: nothing done (no face is named berta, and no file names it)")
    assert "it is all in" not in out
    assert (tmp_path / "crops" / "anna.png").exists()


def test_faces_are_listed_by_their_names_and_a_misspelt_one_is_not_forgotten(
    capsys, tmp_path, models
):
    torch.save(torch.randn(2, 8, 28), tmp_path / "anna.pt")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "no\nbody.png")
    assert call(capsys, "faces", str(tmp_path))[0] == 2
    import_latents(str(tmp_path), str(tmp_path / "anna.pt"), models=models, device="cpu")
    call(capsys, "--no-server", "align", str(tmp_path / "photos"), str(tmp_path))
    reason = "found no face of about 76 px or more"
    (nobody, *others) = call(capsys, "faces", str(tmp_path))[1].splitlines()
    assert nobody.startswith("no_body--")
    assert nobody.endswith(f"  no_face  {tmp_path}/photos/no\\nbody.png  {reason}")
    assert others == ["anna-00000  ok  imported", "anna-00001  ok  imported"]
    status, out, _ = call(capsys, "--json", "faces", str(tmp_path), "--status", "no_face")
    assert (status, [face["image_id"] for face in json.loads(out)]) == (0, [nobody.split()[0]])
    assert call(capsys, "faces", str(tmp_path), "--status", "lost")[0] == 2
    for slip in ("ana-00000", "anna-00000.png"):
        status, _, err = call(capsys, "forget", str(tmp_path), slip, "--yes")
        assert (status, "did you mean 'anna-00000'?" in err) == (2, True)
    # Once more is no slip, though another face has almost the same name.
    for _ in range(2):
        assert call(capsys, "forget", str(tmp_path), "anna-00000", "--yes")[0] == 0


def test_imported_latents_that_are_not_sound_are_named(capsys, tmp_path, models):
    latents = torch.randn(6, 8, 28)
    latents[3] = torch.nan
    torch.save(latents, tmp_path / "w.pt")
    words = ["latents", "import", str(tmp_path / "ws"), str(tmp_path / "w.pt"), "--models", models]
    reason = "failed: the latent holds NaN or infinity"
    _, out, err = call(capsys, "--no-server", *words)
    assert ("5 ok, 1 failed" in out, f"import: w-00003: {reason}" in err) == (True, True)
    _, out, err = call(capsys, "--no-server", *words)
    assert ("nothing left" in out, f"import: from before: w-00003: {reason}" in err) == (True, True)
    words = ["invert", str(tmp_path / "ws"), "--models", models]
    assert f"invert: from before: w-00003: {reason}" in call(capsys, "--no-server", *words)[2]
    out = call(capsys, "faces", str(tmp_path / "ws"), "--status", "failed")[1]
    assert out == "w-00003  failed  imported  the latent holds NaN or infinity\n"
    assert call(capsys, "faces", str(tmp_path / "ws"))[1].count("  ok  imported") == 5


def test_a_face_whose_inversion_failed_is_not_ok(capsys, tmp_path, models):
    words = ["--no-server", "align", str(PHOTOS / "astronaut.png"), str(tmp_path)]
    assert call(capsys, *words)[0] == 0
    (crop,) = (tmp_path / "crops").glob("*.png")
    whole = crop.read_bytes()
    crop.write_bytes(whole[:1000])
    call(capsys, "--no-server", "invert", str(tmp_path), "--models", models)
    (told,) = call(capsys, "faces", str(tmp_path))[1].splitlines()
    assert told.startswith(f"astronaut  unreadable  {PHOTOS}/astronaut.png  ")
    crop.write_bytes(whole)
    words = ["invert", str(tmp_path), "--models", models, "--retry-failed"]
    assert call(capsys, "--no-server", *words)[0] == 0
    assert call(capsys, "faces", str(tmp_path))[1].startswith("astronaut  ok  ")


def test_it_is_said_where_more_latents_failed_than_are_named(capsys, tmp_path, models):
    torch.save(torch.full((6, 8, 28), torch.nan), tmp_path / "w.pt")
    words = ["latents", "import", str(tmp_path / "ws"), str(tmp_path / "w.pt"), "--models", models]
    err = call(capsys, "--no-server", *words)[2]
    assert (err.count(": failed: "), "import: ... and more" in err) == (5, True)


def test_an_import_that_is_refused_leaves_no_workspace(capsys, tmp_path, models):
    torch.save(torch.zeros(2, 8, 29), tmp_path / "w.pt")
    (tmp_path / "fs3.npy").touch()
    for command, file in (("import", "w.pt"), ("import-directions", "fs3.npy")):
        words = ["latents", command, str(tmp_path / "ws"), str(tmp_path / file), "--models", models]
        assert call(capsys, "--no-server", *words)[0] == 2
        assert not (tmp_path / "ws").exists()


def test_names_that_are_not_there_are_told_with_the_nearest(capsys, tmp_path, models):
    torch.save(torch.zeros(2, 8, 28), tmp_path / "w.pt")
    (tmp_path / "names.txt").touch()
    words = ["latents", "import", str(tmp_path / "ws"), str(tmp_path / "w.pt"), "--models", models]
    status, _, err = call(capsys, *words, "--names", str(tmp_path / "name.txt"))
    told = f"names: got {tmp_path}/name.txt, which is no file (did you mean {tmp_path}/names.txt?)"
    assert (status, told in " ".join(err.split())) == (2, True)


def test_a_server_that_does_not_answer_is_told_with_what_names_it(capsys, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "nobody.png")
    words = ["align", str(tmp_path / "nobody.png"), str(tmp_path / "ws")]
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        status, _, err = call(capsys, *words)
    assert status == 1
    told = "Failed to reach API at http://127.0.0.1:9/api/; PREFECT_API_URL names that server"
    assert told in " ".join(err.split())


def test_a_manifest_is_parquet_and_its_prompts_are_texts(capsys, tmp_path):
    (tmp_path / "anna.txt").touch()
    build = ["manifest", "build", str(tmp_path)]
    for words, told in (
        (["edits.csv", "--target", "a hat"], "got edits.csv, expected a name that ends with .par"),
        (["edits.parquet", "--target", "a.csv"], "got the file a.csv, expected a text such as"),
    ):
        status, _, err = call(capsys, *build, *words)
        assert (status, told in " ".join(err.split())) == (2, True)


def test_a_run_that_is_not_there_cannot_be_verified(capsys, tmp_path):
    (tmp_path / "anna.txt").touch()
    status, _, err = call(capsys, "--no-server", "verify", str(tmp_path), "--run", "none")
    assert (status, "holds no run.json" in " ".join(err.split())) == (2, True)


def test_the_doctor_says_what_is_there_and_what_is_not(capsys, tmp_path, models):
    (tmp_path / "edits.csv").touch()
    status, out, err = call(capsys, "--json", "doctor", str(tmp_path), "--models", models)
    assert (status, json.loads(out)["counts"]["wrong"]) == (0, 0)
    said = " ".join(err.split())
    assert f"sound: workspace {tmp_path}: a folder of " in said
    assert "suspicious: directions" in said
    bundle = {"generator": {"uri": f"{tmp_path}/none.pt"}}
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    status, _, err = call(capsys, "doctor", str(tmp_path), "--models", f"{tmp_path}/bundle.json")
    assert (status, "got no encoder, expected one" in " ".join(err.split())) == (1, True)


def test_no_text_of_a_stranger_drives_the_terminal(capsys, tmp_path):
    path = tmp_path / "\x1b]0;owned\x07\u202e.csv"
    path.write_text("image_id,target_prompt\n\x1b[2J,x\n")
    for name in (path, tmp_path / "\x1b[2Jgone.csv"):
        status, out, err = call(capsys, "manifest", "validate", str(name))
        assert status == 2
        assert not {*out, *err} & {"\x1b", "\x07", "\u202e"}
    assert "\\x1b[2Jgone.csv" in "".join(err.split("\n"))


BUSY = """
import threading, time
from flows.interruption import end_soon_when_interrupted
end_soon_when_interrupted()
threading.Thread(target=time.sleep, args=(100,)).start()
try:
    print("busy", flush=True)
    time.sleep(100)
finally:
    # As a pool that waits for its shards.
    time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_whose_threads_are_busy(number):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "busy\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted; give the same command to continue\n"


DONE = """
import atexit, time
from flows import cli
@atexit.register
def end():
    print("ending", flush=True)
    time.sleep(60)
cli.start = lambda tokens: 3
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_is_done_with_its_status(number):
    process = subprocess.Popen(
        [sys.executable, "-c", DONE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ending\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (3, "")


def test_in_a_flow_sigterm_ends_the_command_as_before_it(monkeypatch):
    # As before a command of another test, and put back after this one.
    monkeypatch.setattr(flow_engine, "capture_sigterm", capture_sigterm)

    @flow(name="look")
    def handler_in_a_flow():
        return signal.getsignal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert handler_in_a_flow() != before
    keep_signals()
    assert handler_in_a_flow() == before


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["edit", "--retry-failed"], ["edit", "--retry-failed", "all"]),
        (["--retry-failed", "--update"], ["--retry-failed", "all", "--update"]),
        (["--retry-failed", "failed,no_latent"], ["--retry-failed", "failed,no_latent"]),
    ],
)
def test_failed_rows_may_be_named_by_status_or_not(words, wanted):
    assert [*_with_statuses(words)] == wanted


@pytest.mark.parametrize(
    ("command", "failures"),
    [("align", FACE_FAILURES), ("invert", LATENT_FAILURES)]
    + [(command, RESULT_FAILURES) for command in ("edit", "run")],
)
def test_help_names_the_statuses_that_may_be_done_again(capsys, command, failures):
    shown = call(capsys, command, "--help")[1].replace("│", " ")
    assert f"({', '.join(failures)})" in " ".join(shown.split())


@pytest.mark.parametrize("words", [["--help"], ["edit", "--help"], ["faces", "{place}"]])
def test_a_reader_that_had_enough_ends_a_command_as_any_other(tmp_path, words):
    row = dict.fromkeys(FACES.names) | {"image_id": "anna", "source_uri": "a.jpg", "status": "ok"}
    ledger, rows = Ledger(Folder(str(tmp_path)) / "faces", FACES), [row] * 3
    table = pa.Table.from_pylist(rows, FACES)
    ledger.plan_shard(0, table.select(["source_uri"]))
    ledger.commit(0, table)
    command = [sys.executable, "-m", "flows.cli", *(word.format(place=tmp_path) for word in words)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_nor_is_it_a_failure_where_nobody_reads_errors_any_more(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    words = ["--no-server", "align", str(tmp_path / "broken.jpg"), str(tmp_path / "ws")]
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "flows.cli", *words]
    done = subprocess.run(command, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE


def test_help_version_and_slips_import_nothing_that_takes_seconds():
    look = (
        "import contextlib, sys; from flows.cli import start\n"
        "with contextlib.suppress(SystemExit):\n    start(sys.argv[1:])\n"
        "print(sorted({'torch', 'transformers', 'prefect', 'pandas', 'zarr'} & {*sys.modules}))"
    )
    helps = (["--help"], ["weights", "--help"], ["run", "--help"], ["latents", "import", "-h"])
    for words in (*helps, ["--version"], ["edti"], ["weights", "lst"]):
        command = [sys.executable, "-c", look, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_help_that_imports_no_command_is_that_of_the_command():
    compare = (
        "import contextlib, io; from flows.cli import app, start\n"
        "from flows.commands import COMMANDS\n"
        "def shown(show, words):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        show([*words.split(), '--help'])\n"
        "    return out.getvalue()\n"
        "quick = {words: shown(start, words) for words in COMMANDS}\n"
        "print([words for words in COMMANDS if quick[words] != shown(app.meta, words)])\n"
        "print(min(map(len, quick.values())) > 1000)"
    )
    command = [sys.executable, "-c", compare]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]


def test_settings_of_prefect_are_there_before_it_is(monkeypatch):
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    look = (
        "import flows.cli; from prefect.settings import get_current_settings as get; "
        "from prefect._internal.analytics.enabled import is_telemetry_enabled as tells; "
        "print(get().logging.level, get().server.analytics_enabled, tells())"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["WARNING", "False", "False"]


def test_what_reads_tables_only_waits_for_no_network_and_no_server(mistaken):
    program = (
        "import sys; from flows.cli import app; "
        "app.meta(['manifest', 'validate', sys.argv[1]]); app.meta(['weights', 'list']); "
        "print([name for name in ('torch', 'prefect', 'dlib') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, mistaken]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "role: generator" in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["edit", "ws", "edits.csv", "--retry-failed", "lost"],
            "--retry-failed: got lost, expected some of no_latent, failed",
        ),
        (
            ["align", "photos", "ws", "--retry-failed", "lost"],
            "--retry-failed: got lost, expected some of unreadable, no_face",
        ),
        (
            ["invert", "ws", "--retry-failed", "nolatent"],
            "--retry-failed: got nolatent, expected some of unreadable, failed;",
        ),
        (["edit", "ws", "edits.csv", "more"], "got more, which is more than this command takes"),
        (["train-mapper", "ws", "a hat", "--no-corse"], "(did you mean --no-coarse?)"),
        (
            ["train-mapper", "ws", "--prompt", "old"],
            "got --prompt, which train-mapper does not take",
        ),
        (["train-mapper", "ws", "--step", "3"], "(did you mean --steps?)"),
        (["edit", "ws", "edits.csv", "--alpha", "3"], "strengths are columns of the table"),
    ],
)
@pytest.mark.usefixtures("inputs")
def test_what_a_command_does_not_take_is_told(capsys, words, told):
    with pytest.raises(SystemExit):
        start(words)
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_mistyped_path_is_told_before_anything_large_is_imported():
    code = (
        "import sys; from flows.cli import start\n"
        "status = start(['--json', *sys.argv[1:]])\n"
        "assert not {'torch', 'prefect', 'pandas'} & {*sys.modules}\n"
        "sys.exit(status)"
    )
    for words in (["invert", "ws"], ["edit", "--retry-failed", "--json", "ws", "edits.csv"]):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"got {words[-1]}, which is not there" in done.stderr


@pytest.mark.parametrize("command", [*COMMANDS])
def test_the_source_of_a_command_tells_all_that_it_takes(command):
    chosen = app
    for word in command.split():
        chosen = chosen[word]
    arguments = chosen.assemble_argument_collection(default_parameter=app.default_parameter)
    parsed = [name for argument in arguments for name in argument.names]
    assert set(options(COMMANDS[command])) == {*parsed} - {"*"}
    refuse_unknown([*command.split(), "x", *(set(parsed) - {"*"}), "--json"])


def test_an_option_that_is_none_is_told_before_anything_is_imported():
    program = (
        "import sys; from contextlib import suppress; from flows.cli import start\n"
        "with suppress(SystemExit): start(['--metrics', 'edit', 'run', 'a', '--batchsize=3'])\n"
        "print([name for name in ('torch', 'prefect', 'dlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "--batchsize, which run does not take (did you mean --batch-size?)" in done.stderr
    assert done.stdout == "[]\n"
