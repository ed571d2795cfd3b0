"""Jobs in threads, side by side: the first failure, or a signal, ends them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

from parity_check import interrupts

N = TypeVar("N")
T = TypeVar("T")


def side_by_side(jobs: Mapping[N, Callable[[], T]], at_most: int | None = None) -> dict[N, T]:
    """Run every job in a thread; returns their results, in the order of the jobs.

    After the first failure the other jobs end at their next `interrupts.check`, and it is raised
    when they have ended. Raises KeyboardInterrupt after a signal.
    """
    with interrupts.abandonable() as abandon, ThreadPoolExecutor(at_most or len(jobs)) as threads:
        try:
            futures = {name: threads.submit(copy_context().run, job) for name, job in jobs.items()}
            wait_all(futures.values())
            raise_first(futures.values())
        except BaseException:
            abandon()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: future.result() for name, future in futures.items()}


def wait_all(futures: Iterable[Future[T]]) -> None:
    """Wait until all are done or one has failed. Raises KeyboardInterrupt after a signal."""
    waiting = set(futures)
    while waiting:
        interrupts.check()
        done, waiting = wait(waiting, interrupts.POLL_S, FIRST_EXCEPTION)
        if any(future.exception() for future in done):
            return


def raise_first(futures: Iterable[Future[T]]) -> None:
    """Raise the first failure; later ones are a consequence of it."""
    for future in futures:
        if future.done() and (error := future.exception()):
            raise error
