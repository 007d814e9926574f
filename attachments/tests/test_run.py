"""The worker pool, stopping, pacing and progress."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from io import StringIO

import pytest
from django.core.management.base import OutputWrapper
from django.db import OperationalError, connection

from attachments.maintenance.cleanup import LEGACY_KEY
from attachments.maintenance.command import duration, size
from attachments.maintenance.migrate import IdRange
from attachments.maintenance.report import Progress, RunSummary, human_bytes
from attachments.maintenance.retry import Retry, backoff, query
from attachments.maintenance.runner import Cancelled, CancelToken, cancelled_by_signals, limited
from attachments.maintenance.workers import Bandwidth, Pace, Pool
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import BlobStore, Unreachable


def doubled(item: int) -> Iterator[int]:
    yield 2 * item


def test_every_item_gives_its_results() -> None:
    pool = Pool[int, int](doubled, pace=Pace(3), cancel=CancelToken())
    results = [result for result in pool.results(iter(range(500))) if result is not None]
    assert sorted(results) == [2 * item for item in range(500)]


def test_items_are_drawn_no_faster_than_they_are_done() -> None:
    """However many there are, only a few are in memory."""
    drawn = 0
    done = threading.Semaphore(0)

    def items() -> Iterator[int]:
        nonlocal drawn
        for item in range(1000):
            drawn += 1
            yield item

    def waiting(item: int) -> Iterator[int]:
        done.acquire()
        yield item

    pool = Pool[int, int](waiting, pace=Pace(2), cancel=CancelToken())
    results = pool.results(items())
    assert next(results) is None
    assert drawn == 4
    done.release(1000)
    assert sum(result is not None for result in results) == 1000


def test_the_first_halt_ends_the_run_after_what_is_in_flight() -> None:
    finished: list[int] = []

    def failing(item: int) -> Iterator[int]:
        if item % 2:
            raise RunAborted(ExitStatus.UNAVAILABLE, f"item {item}")
        yield item

    pool = Pool[int, int](failing, pace=Pace(4), cancel=CancelToken(), finished=finished.append)
    with pytest.raises(RunAborted):
        list(pool.results(iter(range(1000))))
    assert 0 < len(finished) < 1000


def test_a_bug_in_the_work_is_raised_not_swallowed() -> None:
    def broken(item: int) -> Iterator[int]:
        yield item
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Pool[int, int](broken, pace=Pace(2), cancel=CancelToken()).results(iter(range(10))))


def test_a_stop_finishes_what_is_in_flight_and_begins_nothing() -> None:
    stop = CancelToken()
    begun: list[int] = []
    finished: list[int] = []

    def work(item: int) -> Iterator[int]:
        begun.append(item)
        stop.request(ExitStatus.LIMIT_REACHED, "enough")
        yield item

    pool = Pool[int, int](work, pace=Pace(2), cancel=stop, finished=finished.append)
    results = [result for result in pool.results(iter(range(1000))) if result is not None]
    assert sorted(results) == sorted(begun) == sorted(finished)
    assert len(begun) <= 4


def test_no_item_at_this_moment_is_not_the_end() -> None:
    items = iter([1, None, None, 2])
    results = list(Pool[int, int](doubled, pace=Pace(1), cancel=CancelToken()).results(items))
    assert [result for result in results if result is not None] == [2, 4]


def test_results_are_not_kept_waiting_by_asking_for_items() -> None:
    """An item that others hold may be free only once our own results have been taken."""
    asked = taken = 0

    def items() -> Iterator[int | None]:
        nonlocal asked
        yield from range(50)
        while taken < 50:
            asked += 1
            yield None

    for result in Pool[int, int](doubled, pace=Pace(50), cancel=CancelToken()).results(items()):
        taken += result is not None
    assert asked < 10


def test_a_reader_that_leaves_early_leaves_no_threads() -> None:
    def many(item: int) -> Iterator[int]:
        yield from range(5000)

    results = Pool[int, int](many, pace=Pace(3), cancel=CancelToken()).results(iter(range(50)))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("maintenance-")]


def test_stop_wakes_who_waits() -> None:
    stop = CancelToken()
    stop.request(ExitStatus.INTERRUPTED, "first")
    stop.request(ExitStatus.LIMIT_REACHED, "second")
    with pytest.raises(Cancelled):
        stop.sleep(60)
    assert (stop.status, stop.reason) == (ExitStatus.INTERRUPTED, "first")


def test_a_time_limit_stops() -> None:
    stop = CancelToken()
    stop.expire_after(None)
    stop.expire_after(3600)
    assert not stop.requested
    stop.expire_after(0.01)
    with pytest.raises(Cancelled):
        stop.sleep(60)
    assert stop.status is ExitStatus.LIMIT_REACHED


@pytest.mark.parametrize(("limit", "reached"), [(2, True), (3, False), (None, False)])
def test_a_limit_is_reached_only_if_there_is_more(limit: int | None, reached: bool) -> None:
    stop = CancelToken()
    items = limited(iter([1, None, 2, 3]), limit, stop, "objects")
    assert [item for item in items if item] == [1, 2, 3][:limit]
    assert (stop.status is ExitStatus.LIMIT_REACHED) == reached


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks(number: signal.Signals) -> None:
    stop = CancelToken()
    before = signal.getsignal(number)
    with cancelled_by_signals(stop):
        os.kill(os.getpid(), number)
        assert stop.requested
    assert stop.status is ExitStatus.INTERRUPTED
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("before", [None, ExitStatus.LIMIT_REACHED])
def test_the_second_signal_ends_the_process_at_once(before: ExitStatus | None) -> None:
    """Whatever the run was ending for when the first one came."""
    child = os.fork()
    if child == 0:
        stop = CancelToken()
        if before is not None:
            stop.request(before, "the time allowed is over")
        with cancelled_by_signals(stop):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_a_signal_may_come_while_a_stop_is_being_requested() -> None:
    """The handler runs in the thread that holds the lock."""
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        stop = CancelToken()
        with cancelled_by_signals(stop), stop._lock:
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_an_item_that_cannot_be_put_away_does_not_lose_results() -> None:
    """As a block of rows that cannot be released: the database is away and the run is to end."""

    def refuses(item: int) -> None:
        raise Cancelled

    pool = Pool[int, int](doubled, pace=Pace(2), cancel=CancelToken(), finished=refuses)
    assert sum(result is not None for result in pool.results(iter(range(20)))) == 20


def test_overload_halves_once_and_success_raises_slowly() -> None:
    pace = Pace(8)
    assert pace.in_flight == 16
    for _ in range(5):
        pace.overloaded()
    assert pace.in_flight == 4
    pace.succeeded()
    assert pace.in_flight == 4
    for _ in range(60):
        pace.succeeded()
    assert pace.in_flight == 16


def test_a_store_that_does_not_answer_is_asked_less(
    disk_store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    pace = Pace(8)
    answers: list[Exception | int] = [Unreachable("503 SlowDown"), 7]

    def operation() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Retry(CancelToken(), disk_store, pace).call(operation) == 7
    assert pace.in_flight == 4


def test_waiting_doubles_up_to_a_bound() -> None:
    waits = [backoff(attempt) for attempt in range(1, 20)]
    for attempt, wait in enumerate(waits, start=1):
        longest = min(20.0, 0.2 * 2 ** (attempt - 1))
        assert longest / 2 <= wait <= longest


def test_bandwidth_makes_the_next_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    clock = [100.0]
    stop = CancelToken()
    monkeypatch.setattr("attachments.maintenance.workers.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(stop, "sleep", waited.append)
    bandwidth = Bandwidth(1000, stop)
    bandwidth.spend(500)
    bandwidth.spend(1000)
    assert waited == [0.5]
    clock[0] += 10
    bandwidth.spend(1000)
    assert waited == [0.5]
    Bandwidth(None, stop).spend(10**12)
    assert waited == [0.5]


def test_bandwidth_holds_nothing_back_once_the_run_is_to_end() -> None:
    stop = CancelToken()
    stop.request(ExitStatus.INTERRUPTED, "SIGTERM")
    bandwidth = Bandwidth(1, stop)
    bandwidth.spend(10**9)
    bandwidth.spend(10**9)


@pytest.mark.django_db
def test_a_database_that_comes_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(connection, "close", lambda: None)
    answers: list[Exception | int] = [OperationalError("gone"), OperationalError("gone"), 7]

    def operation() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert query(operation, CancelToken()) == 7


@pytest.mark.django_db
def test_a_database_that_stays_away_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(connection, "close", lambda: None)

    def gone() -> int:
        raise OperationalError("gone")

    with pytest.raises(RunAborted) as halted:
        query(gone, CancelToken())
    assert halted.value.exit_status is ExitStatus.UNAVAILABLE


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_as_json() -> None:
    output = StringIO()
    summary = RunSummary(retries=3)
    summary.fail("absent", "row 7")
    with Progress(summary, OutputWrapper(output), cancel=CancelToken(), as_json=True) as progress:
        progress.begin("rows", 10)
        for size in (1024, 1024):
            progress.step(size)
        assert output.getvalue() == ""
        progress._shown_at -= 60
        progress.step()
    state = json.loads(output.getvalue())["progress"]
    assert (state["phase"], state["done"], state["total"], state["bytes"]) == ("rows", 3, 10, 2048)
    assert (state["retries"], state["failures"]) == (3, {"absent": 1})
    assert state["seconds_left"] is not None


def test_progress_on_a_terminal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output = Terminal()
    stream = OutputWrapper(output)
    stream.style_func = lambda text: f"<red>{text}"
    summary = RunSummary()
    with Progress(summary, stream, cancel=CancelToken()) as progress:
        progress.begin("listed")
        progress.begin("rows", 10)
        for code in ("absent", "corrupt"):
            summary.fail(code, "a failure that makes the line longer than the terminal is wide")
            progress._shown_at -= 60
            progress.step(5)
    lines = output.getvalue().split("\r\x1b[K")
    assert "\n" not in output.getvalue()
    assert "<red>" not in output.getvalue()
    assert lines[1].startswith("listed 0")
    assert lines[4].startswith("rows 2/10")
    assert all(len(line) < 40 for line in lines)
    assert lines[-1] == ""


def test_only_warnings_come_between_a_live_line(caplog: pytest.LogCaptureFixture) -> None:
    output = Terminal()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    with caplog.at_level(logging.INFO):
        with Progress(RunSummary(), OutputWrapper(output), cancel=CancelToken()) as progress:
            progress.begin("rows", 10)
            logging.info("migrated row 7")
            logging.warning("row 8 was not migrated")
        logging.info("afterwards")
    root.removeHandler(handler)
    assert "migrated row 7" not in output.getvalue()
    assert "\r\x1b[Krow 8 was not migrated\n" in output.getvalue()
    assert output.getvalue().endswith("afterwards\n")


def test_progress_without_a_terminal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    output = StringIO()
    with (
        Progress(RunSummary(), OutputWrapper(output), cancel=CancelToken()) as progress,
        caplog.at_level("INFO"),
    ):
        progress.begin("rows", 10)
        progress._shown_at -= 60
        progress.step()
    assert output.getvalue() == ""
    assert "rows 1/10" in caplog.text


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("parts/17/attachments/6f1ed002-ab59-45cd-8e1c-1c7b1e5f6f3a.pdf", True),
        ("parts/17/attachments/6F1ED002AB5945CD8E1C1C7B1E5F6F3A.JPG", True),
        ("parts/ABCD/attachments/6f1ed002-ab59-45cd-8e1c-1c7b1e5f6f3a", True),
        ("parts/17/attachments/6f1ed002-ab59-45cd-8e1c-1c7b1e5f6f3a.data sheet (größer)", True),
        ("parts/17/attachments/6f1ed002-ab59-45cd-8e1c-1c7b1e5f6f3a.pdf\n", False),
        ("parts/17/attachments/6f1ed002-ab59-45cd-8e1c-1c7b1e5f6f3a.pdf/x", False),
        ("parts/17/attachments/datasheet.pdf", False),
        ("parts/17/covers/6f1ed002-ab59-45cd-8e1c-1c7b1e5f6f3a.pdf", False),
        ("parts/1/2/attachments/6f1ed002-ab59-45cd-8e1c-1c7b1e5f6f3a.pdf", False),
        ("x/parts/17/attachments/6f1ed002-ab59-45cd-8e1c-1c7b1e5f6f3a.pdf", False),
        ("cas/" + "0" * 64, False),
    ],
)
def test_the_known_legacy_pattern(key: str, known: bool) -> None:
    assert bool(LEGACY_KEY.match(key)) is known


@pytest.mark.parametrize("text", ["", "-", "5-2", "a-b", "1-2-3", "7"])
def test_malformed_id_ranges(text: str) -> None:
    with pytest.raises(ValueError, match="range"):
        IdRange.parse(text)


@pytest.mark.parametrize("text", ["1-2", "5-", "-9"])
def test_id_ranges_read_as_they_are_written(text: str) -> None:
    assert str(IdRange.parse(text)) == text


def test_sizes_and_durations() -> None:
    assert [int(size(text)) for text in ("500", "2k", "20M", "1G")] == [500, 2048, 20971520, 2**30]
    seconds = [90, 90, 900, 28800, 2592000]
    assert [float(duration(text)) for text in ("90", "90s", "15m", "8h", "30d")] == seconds
    assert [human_bytes(count) for count in (0, 1536, 5 * 2**40)] == ["0 B", "1.5 KiB", "5.0 TiB"]
