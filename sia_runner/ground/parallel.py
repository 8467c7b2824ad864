"""Threads do several pieces of work of this process in parallel."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def parallel(work: Callable[[T], R], items: Iterable[T], workers: int) -> list[R]:
    """Return the results in the order of `items`, by threads; an interrupt does not wait for running ones."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="parallel")
    try:
        results = list(pool.map(work, items))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return results
