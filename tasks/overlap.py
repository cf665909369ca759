"""Work behind other work: what need not be waited for, done by threads, a bounded amount of it."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

# Encoding releases the interpreter, and stores are waited for.
_THREADS = 8


@contextmanager
def behind(most: int) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Give a function that takes calls and has them made by threads; the block ends with the last.

    Args:
        most: Calls that may wait or run; another one is taken when the first of them is done.

    Raises:
        Exception: What a call raised, with the next call that is taken, or at the end.
    """
    waiting = deque[Future[object]]()
    with ThreadPoolExecutor(_THREADS, "behind") as pool:

        def take(call: Callable[[], object]) -> None:
            while len(waiting) >= most:
                waiting.popleft().result()
            waiting.append(pool.submit(call))

        yield take
        for future in waiting:
            future.result()
