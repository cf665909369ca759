"""Which rows of a run, or images of a workspace, a command is about."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from manifests.schemas import ALL_FAILURES, RESULT_FAILURES, RESULT_STATUSES
from tasks.runs import RunError, run_ledger
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger

_READ = ["pair_id", "image_id", "target_prompt", "status"]


@dataclass(frozen=True)
class Selection:
    """A part of the rows of a run that is to be done again; empty fields name all.

    Attributes:
        prompts: Target prompts, or patterns of them, see `is_named`.
        images: Image ids, or patterns.
        statuses: Of their results.
        since: Results that were committed then or later.
        before: Results that were committed earlier. Also what makes a selection come to an end: it
            names nothing that was made after it.
    """

    before: datetime
    prompts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    since: datetime | None = None

    def names(self, unit: Mapping[str, Any]) -> bool:
        """Return whether a row is of the prompts and images."""
        return is_named(unit["target_prompt"], self.prompts) and is_named(
            unit["image_id"], self.images
        )

    def takes(self, row: Mapping[str, Any], made: datetime | None) -> bool:
        """Return whether a result is to be made again.

        Args:
            row: Of the results.
            made: When it was committed; None where nobody knows, which is before any date.
        """
        if self.statuses and row["status"] not in self.statuses:
            return False
        old = made is None or made < self.before
        young = self.since is None or (made is not None and made >= self.since)
        return old and young and self.names(row)


@dataclass(frozen=True)
class Redo:
    """What a command is asked to do again of a run; nothing where all is empty.

    Attributes:
        only_prompt: Do again only results of these target prompts, or of patterns such as
            'a * face'; also those that are ok.
        only_image: Only of these images, or patterns such as 'anna*'.
        only_status: Only with one of these statuses, separated by commas; ok is one.
        since: Only those committed then or later, such as 2026-11-25 or 2026-11-25T14:30+01:00;
            UTC where it says nothing else.
        before: Only those committed earlier. With a date, the same command continues what was
            stopped; without, it begins anew.
    """

    only_prompt: tuple[str, ...] = ()
    only_image: tuple[str, ...] = ()
    only_status: str = ""
    since: str = ""
    before: str = ""


NOTHING = Redo()


def require_no_selection(selection: "Selection | None", redo_damaged: bool) -> None:
    """Refuse a forecast of what is done again.

    Raises:
        RunError: Something was selected, or what is damaged is to be done again.
    """
    if selection is not None or redo_damaged:
        option = "--redo-damaged" if redo_damaged else "--only-..., --since or --before"
        raise RunError(
            f"dry_run: got it with {option}, expected it without: what that will take is known "
            "once it is made; rows that are to do are told without"
        )


def read_selection(redo: Redo, redo_damaged: bool = False) -> Selection | None:
    """Read what a command is asked to do again; None where it is not asked to.

    Raises:
        RunError: A status or a date is none, or what is damaged is to be done again too.
    """
    if not any(astuple(redo)):
        return None
    if redo_damaged:
        raise RunError(
            "redo_damaged: got it with --only-..., --since or --before, expected it without: it "
            "looks at all that is there"
        )
    statuses = read_statuses("only_status", redo.only_status, RESULT_STATUSES)
    now = datetime.now(UTC)
    return Selection(
        min(_date("before", redo.before), now) if redo.before else now,
        redo.only_prompt,
        redo.only_image,
        tuple(statuses),
        _date("since", redo.since) if redo.since else None,
    )


def statuses_to_retry(named: str, failures: Sequence[str] = RESULT_FAILURES) -> list[str]:
    """Return the statuses that `retry_failed` names, of those that a stage gives.

    Raises:
        RunError: There is no such status.
    """
    return [*failures] if named == ALL_FAILURES else read_statuses("retry_failed", named, failures)


def read_statuses(option: str, named: str, known: Sequence[str]) -> list[str]:
    """Return the statuses that a comma-separated text names.

    Args:
        option: That the text was given by.
        named: The text.
        known: What it may name.

    Raises:
        RunError: There is no such status.
    """
    statuses = [status.strip() for status in named.split(",") if status.strip()]
    unknown = [status for status in statuses if status not in known]
    if unknown:
        raise RunError(f"{option}: got {', '.join(unknown)}, expected some of {', '.join(known)}")
    return statuses


def shards_to_redo(
    folder: Folder,
    selection: Selection,
    retry: Collection[str] = (),
    own: Callable[[Sequence[int]], Sequence[int]] = sorted,
) -> tuple[list[int], int]:
    """Return the shards of a run with a row to make again.

    A shard that was never done can only be done as a whole: it is among them if the prompts and
    images name all its rows, and nothing is asked of results.

    Args:
        folder: Of the run.
        selection: Which rows.
        retry: Only those with these statuses, if there are some.
        own: Returns those of some shards that are looked at.

    Returns:
        The shards, ascending, and how many rows are left that were never done.

    Raises:
        RunError: A prompt or an image names no row.
    """
    ledger, chosen, left = run_ledger(folder), list[int](), 0
    plans = ledger.plans()
    mine = own(plans)
    unseen = {"only_prompt": {*selection.prompts}, "only_image": {*selection.images}}
    done = {*ledger.committed()}
    asks_results = bool(selection.statuses or selection.since or retry)
    for shard in mine:
        table = ledger.rows(shard).select(_READ) if shard in done else ledger.units(shard)
        for option, column in (("only_prompt", "target_prompt"), ("only_image", "image_id")):
            values = table[column].unique().to_pylist()
            unseen[option] -= {p for p in unseen[option] if any(is_named(v, [p]) for v in values)}
        rows = table.to_pylist()
        if shard in done:
            dates = commit_dates(ledger, shard)
            hit = any(_is_due(row, dates, selection, retry) for row in rows)
        else:
            hit = not asks_results and all(map(selection.names, rows))
            left += 0 if hit else len(rows)
        chosen += [shard] if hit else []
    for option, names in unseen.items():
        # Who looks at a part of the shards cannot know.
        if names and len(mine) == len(plans):
            raise RunError(
                f"{option}: got {', '.join(map(repr, sorted(names)))}, which no row of "
                f"{folder.url} has, expected values of its manifest, or patterns with * and ?"
            )
    return chosen, left


def rows_to_redo(
    ledger: Ledger, shard: int, selection: Selection, retry: Collection[str]
) -> set[str]:
    """Return the pair ids of the results of a committed shard that are to be made again."""
    dates = commit_dates(ledger, shard)
    rows = ledger.rows(shard).select(_READ).to_pylist()
    return {row["pair_id"] for row in rows if _is_due(row, dates, selection, retry)}


def commit_dates(ledger: Ledger, shard: int) -> dict[str, datetime]:
    """Return when each result of a shard was made, by pair id; what has no date is left out.

    A later commit of a shard repeats the rows that were not made again, and `edited` says which
    were.
    """
    dates = dict[str, datetime]()
    for commit, rows in ledger.history(shard):
        made, edited = commit.facts.get("made"), commit.facts.get("edited")
        for pair_id in edited if isinstance(edited, list) else rows["pair_id"].to_pylist():
            dates.pop(pair_id, None)
            if isinstance(made, str):
                dates[pair_id] = datetime.fromisoformat(made)
    return dates


def is_named(text: str, patterns: Collection[str]) -> bool:
    """Return whether a text is one of some, or like a pattern with * and ?; all are where none is.

    Args:
        text: An image id or a prompt.
        patterns: Case counts.
    """
    return not patterns or any(text == p or fnmatchcase(text, p) for p in patterns)


def _is_due(
    row: Mapping[str, Any],
    dates: Mapping[str, datetime],
    selection: Selection,
    retry: Collection[str],
) -> bool:
    wanted = not retry or row["status"] in retry
    return wanted and selection.takes(row, dates.get(row["pair_id"]))


def _date(name: str, text: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise RunError(
            f"{name}: got {text!r}, expected a date as 2026-11-25 or 2026-11-25T14:30+01:00"
        ) from None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
