from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.ids import IdIndex


@given(st.lists(st.lists(st.integers(0, 60).map(str), max_size=40), max_size=8))
@settings(deadline=None, max_examples=40)
def test_it_finds_what_a_dictionary_finds(batches: list[list[str]]) -> None:
    index, known, row = IdIndex(), dict[str, int](), 1
    for ids in batches:
        rows = range(row, row + len(ids))
        wanted = [known.setdefault(name, number) for name, number in zip(ids, rows, strict=True)]
        assert index.first_rows(ids, rows).tolist() == wanted
        row += len(ids)


def test_growing_forgets_nothing_and_invents_nothing() -> None:
    index, count = IdIndex(), 300_000
    for start in range(0, count, 20_000):
        rows = range(start + 1, start + 20_001)
        assert index.first_rows(map(str, rows), rows).tolist() == [*rows]
    again = range(count + 1, 2 * count + 1)
    found = index.first_rows((str(row - count) for row in again), again)
    assert found.tolist() == [*range(1, count + 1)]
