"""The decode workers: every job ends once, whatever its file does to the process it is decoded in."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from indexer.errors import WorkerError
from indexer.media import workers
from indexer.media.workers import Chunk, DecodePool, Failed, Finished, Job, Outcome
from indexer.types import Modality, Range
from tests.indexer.media.preparers import Heavy, Obedient, Unloadable
from tests.toy import ToyPreparer

ROOT = Path(__file__).parents[3]
TEXT = {Modality.TEXT: Obedient()}


def collect(outcomes: Iterator[Outcome]) -> tuple[dict[int, list[Chunk]], dict[int, Finished | Failed]]:
    """Chunks and the last outcome by job; what a consumer of the pool does."""
    chunks: dict[int, list[Chunk]] = {}
    last: dict[int, Finished | Failed] = {}
    for outcome in outcomes:
        assert outcome.job_id not in last, "something came after a job's last outcome"
        if isinstance(outcome, Chunk):
            chunks.setdefault(outcome.job_id, []).append(outcome)
        else:
            last[outcome.job_id] = outcome
            if isinstance(outcome, Failed):
                chunks.pop(outcome.job_id, None)
    return chunks, last


def words(chunks: list[Chunk]) -> list[str]:
    return [one.tensor.tobytes().decode() for chunk in chunks for one in chunk.prepared]


def wait_for_end(pids: list[int], seconds: float = 20.0) -> bool:
    """Whether these processes, children or not, have ended; waits on the kernel, not on a clock.

    Where there is no pidfd they must have been waited for already, as the pool does.
    """
    for pid in pids:
        if not hasattr(os, "pidfd_open"):
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            continue
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], seconds)[0]:
                return False
        finally:
            os.close(handle)
    return True


def pids(pool: DecodePool) -> list[int]:
    return [keeper._worker.process.pid for keeper in pool._keepers if keeper._worker is not None]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(TEXT, workers=2, memory_mb=512, look_ahead=12) as opened:
        yield opened


MISFORTUNES = {
    "abort": "decoder crashed (signal 6)",
    "segfault": "decoder crashed (signal 11)",
    "exit 3": "decoder ended itself (status 3)",
    "allocate 10": "needs more than 512 MB of memory",
    "fail for a reason": "RuntimeError: for a reason",
    "stop now": "SystemExit: now",
}


def test_each_misfortune_costs_its_own_job_only(pool: DecodePool) -> None:
    orders = list(MISFORTUNES) * 2
    jobs = []
    for i in range(120):
        text = orders[i // 10] if i % 10 == 3 else f"word {i}\nline two of {i}"
        jobs.append(Job(1000 + i, Modality.TEXT, text=text))
    chunks, last = collect(pool.run(jobs))
    assert set(last) == {job.id for job in jobs}
    for job in jobs:
        assert job.text is not None
        if job.text in MISFORTUNES:
            assert last[job.id] == Failed(job.id, MISFORTUNES[job.text])
        else:
            assert words(chunks.pop(job.id)) == job.text.splitlines(keepends=True)
            assert last[job.id] == Finished(job.id, len(job.text.encode()), 0)
    assert not chunks


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is Linux's")
def test_the_limit_counts_what_is_used_beyond_the_libraries(pool: DecodePool) -> None:
    _, last = collect(pool.run([Job(1, Modality.TEXT, text="fine")]))
    assert last[1] == Finished(1, 4, 0)


def test_a_file_that_hangs() -> None:
    with DecodePool(TEXT, workers=2, timeout_s=1.5) as pool:
        jobs = [Job(i, Modality.TEXT, text="hang" if i == 5 else f"w{i}") for i in range(40)]
        chunks, last = collect(pool.run(jobs))
    assert last.pop(5) == Failed(5, "took longer than 1.5 s")
    assert len(last) == 39
    assert all(isinstance(outcome, Finished) for outcome in last.values())
    assert {i: words(chunk) for i, chunk in chunks.items()} == {i: [f"w{i}"] for i in last}


def test_a_crash_that_others_caused_is_tried_again() -> None:
    """With one worker and its memory spoilt by job 0, job 1 crashes; alone in a fresh worker it does not."""
    with DecodePool(TEXT, workers=1) as pool:
        jobs = [Job(0, Modality.TEXT, text="remember x"), Job(1, Modality.TEXT, text="crash_after_others")]
        jobs += [Job(i, Modality.TEXT, text=f"w{i}") for i in range(2, 8)]
        chunks, last = collect(pool.run(jobs))
    assert all(isinstance(outcome, Finished) for outcome in last.values())
    assert [words(chunks[i]) for i in range(8)] == [[job.text] for job in jobs]


def test_chunks_of_a_job_that_fails_later_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHUNK_BYTES", 1)
    with DecodePool(TEXT, workers=1) as pool:
        jobs = [
            Job(0, Modality.TEXT, text="a\nb\nc"),
            Job(1, Modality.TEXT, text="a\nb\nabort"),
            Job(2, Modality.TEXT, text="z"),
        ]
        outcomes = list(pool.run(jobs))
    of = {i: [outcome for outcome in outcomes if outcome.job_id == i] for i in range(3)}
    assert [type(outcome) for outcome in of[0]] == [Chunk, Chunk, Chunk, Finished]
    assert [type(outcome) for outcome in of[1]] == [Chunk, Chunk, Failed]
    assert [type(outcome) for outcome in of[2]] == [Chunk, Finished]


def test_files_of_every_modality(tmp_path: Path) -> None:
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    jobs, expected = [], {}
    for i, colour in enumerate(colours.values()):
        path = tmp_path / f"caf\udce9 {i}\n.png"
        Image.new("RGB", (9, 9), colour).save(os.fsencode(path))
        jobs.append(Job(i, Modality.IMAGE, path=str(path)))
        expected[i] = colour
    soundfile.write(tmp_path / "a.wav", np.full(8000 * 12, 0.25, dtype=np.float32), 8000, subtype="FLOAT")
    (tmp_path / "a.txt").write_text("some words")
    jobs += [
        Job(10, Modality.AUDIO, path=str(tmp_path / "a.wav")),
        Job(11, Modality.TEXT, path=str(tmp_path / "a.txt")),
    ]
    with DecodePool({m: ToyPreparer(m) for m in Modality}, workers=2) as pool:
        chunks, last = collect(pool.run(jobs))
    for i, colour in expected.items():
        (one,) = chunks[i][0].prepared
        assert (one.tensor == colour).all()
    assert [one.range for one in chunks[10][0].prepared] == [Range(0, 10), Range(5, 12)]
    assert chunks[11][0].prepared[0].text == "some words"
    for job in jobs:
        status = Path(job.path or "").stat()
        assert last[job.id] == Finished(job.id, status.st_size, status.st_mtime_ns)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    names = ["pipe.jpg", "empty.jpg", "text.jpg", "gone.jpg", "."]
    jobs = [Job(i, Modality.IMAGE, path=str(tmp_path / name)) for i, name in enumerate(names)]
    jobs.append(Job(5, Modality.IMAGE, path="/dev/zero"))
    with DecodePool({Modality.IMAGE: ToyPreparer(Modality.IMAGE)}, workers=1) as pool:
        _, last = collect(pool.run(jobs))
    assert [last[i] for i in range(6)] == [
        Failed(0, "not a regular file"),
        Failed(1, "empty file"),
        Failed(2, "not an image: looks like text"),
        Failed(3, "no such file any more"),
        Failed(4, "not a regular file"),
        Failed(5, "not a regular file"),
    ]


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"first\ngrow {path}")
    with DecodePool(TEXT, workers=1) as pool:
        _, last = collect(pool.run([Job(0, Modality.TEXT, path=str(path)), Job(1, Modality.TEXT, text="x")]))
    assert last == {0: Failed(0, "changed while it was read"), 1: Finished(1, 1, 0)}


def test_a_hostile_svg_costs_one_line(tmp_path: Path) -> None:
    """A chain of <use> gets past the reader's caps and overruns resvg's stack, which nothing can catch."""
    links = "".join(f'<g id="a{i}"><use href="#a{i - 1}"/></g>' for i in range(1, 5000))
    start = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
    (tmp_path / "bad.svg").write_text(f'{start}<g id="a0"/>{links}<use href="#a4999"/></svg>')
    (tmp_path / "good.svg").write_text(f"{start}</svg>")
    jobs = [
        Job(i, Modality.IMAGE, path=str(tmp_path / name))
        for i, name in enumerate(["good.svg", "bad.svg", "good.svg"])
    ]
    with DecodePool({Modality.IMAGE: ToyPreparer(Modality.IMAGE)}, workers=1, timeout_s=20) as pool:
        chunks, last = collect(pool.run(jobs))
    assert isinstance(last[1], Failed)
    assert all((chunks[i][0].prepared[0].tensor == 255).all() for i in (0, 2))


def test_a_long_sound_streams_with_back_pressure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 windows of 1 MB each: while the consumer holds the first chunk, the worker stops near the bound."""
    monkeypatch.setattr(workers, "BUFFER_BYTES", 8 << 20)
    soundfile.write(tmp_path / "a.wav", np.repeat(np.arange(200) / 256, 8000), 8000, subtype="FLOAT")
    progress = tmp_path / "progress"
    with DecodePool({Modality.AUDIO: Heavy(str(progress))}, workers=1, timeout_s=30) as pool:
        outcomes = pool.run([Job(0, Modality.AUDIO, path=str(tmp_path / "a.wav"))])
        first = next(outcomes)
        assert isinstance(first, Chunk)
        assert len(first.prepared) == 4
        (keeper,) = pool._keepers
        buffer = pool._shared.buffer if pool._shared else None
        assert buffer is not None
        with buffer._changed:
            assert buffer._changed.wait_for(lambda: buffer._bytes >= 8 << 20, timeout=20)
            assert not buffer._changed.wait_for(lambda: buffer._bytes > 16 << 20, timeout=0.5)
        assert keeper.thread.is_alive()
        # A buffer of 8, one chunk at the keeper, one in the worker's hands, and what the pipe holds.
        assert progress.stat().st_size <= 4 + 8 + 4 + 4 + 4
        values = [float(one.tensor[0]) for one in first.prepared]
        for outcome in outcomes:
            if isinstance(outcome, Chunk):
                values += [float(one.tensor[0]) for one in outcome.prepared]
    np.testing.assert_array_equal(values, np.arange(200, dtype=np.float32) / 256)


def test_jobs_are_pulled_within_the_look_ahead(pool: DecodePool) -> None:
    pulled = ended = furthest = 0

    def source() -> Iterator[Job]:
        nonlocal pulled, furthest
        for i in range(100):
            pulled += 1
            furthest = max(furthest, pulled - ended)
            yield Job(i, Modality.TEXT, text=f"w{i}")

    for outcome in pool.run(source()):
        ended += not isinstance(outcome, Chunk)
    assert (pulled, ended) == (100, 100)
    assert furthest == 12


def test_large_texts_at_hand_do_not_block_the_pipes() -> None:
    """Both ends would wait for ever if jobs larger than a pipe were sent while outcomes wait to be read."""
    with DecodePool(TEXT, workers=1) as pool:
        texts = [f"{i} " + "x" * 3_000_000 for i in range(12)]
        chunks, last = collect(pool.run(Job(i, Modality.TEXT, text=text) for i, text in enumerate(texts)))
    assert len(last) == 12
    assert [words(chunks[i]) for i in range(12)] == [[text] for text in texts]


def test_nothing_to_do(pool: DecodePool) -> None:
    assert list(pool.run([])) == []


def test_a_run_left_early_does_not_spoil_the_next(pool: DecodePool) -> None:
    outcomes = pool.run(Job(i, Modality.TEXT, text=f"old {i}") for i in range(1000))
    next(outcomes)
    old = pids(pool)
    outcomes.close()
    assert wait_for_end(old)
    chunks, last = collect(pool.run(Job(i, Modality.TEXT, text=f"new {i}") for i in range(20)))
    assert {i: words(chunk) for i, chunk in chunks.items()} == {i: [f"new {i}"] for i in range(20)}
    assert len(last) == 20


def test_an_error_in_the_source_of_jobs_comes_through(pool: DecodePool) -> None:
    def source() -> Iterator[Job]:
        yield Job(0, Modality.TEXT, text="x")
        raise KeyError("from the scan")

    with pytest.raises(KeyError, match="from the scan"):
        list(pool.run(source()))
    assert [type(outcome) for outcome in pool.run([Job(1, Modality.TEXT, text="y")])] == [Chunk, Finished]


def test_a_modality_without_a_preparer(pool: DecodePool) -> None:
    with pytest.raises(ValueError, match="no preparer"):
        list(pool.run([Job(7, Modality.AUDIO, path="/nowhere")]))


def test_a_preparer_that_cannot_be_loaded_is_an_error_of_the_run() -> None:
    with (
        DecodePool({Modality.TEXT: Unloadable()}, workers=2) as pool,
        pytest.raises(WorkerError, match="a library that is not installed"),
    ):
        list(pool.run([Job(0, Modality.TEXT, text="x")]))


def test_workers_are_quiet_and_light(
    pool: DecodePool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "note"
    collect(pool.run([Job(0, Modality.TEXT, text=f"shout\ntell {note}")]))
    pid, threads, modules, main = note.read_text().splitlines()
    assert int(pid) in pids(pool)
    assert (threads, modules, main) == ("1", "", "None")
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_at_the_terminal_is_not_theirs(pool: DecodePool) -> None:
    collect(pool.run([Job(i, Modality.TEXT, text="x") for i in range(4)]))
    for pid in pids(pool):
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
    before = pids(pool)
    _, last = collect(pool.run([Job(i, Modality.TEXT, text="x") for i in range(20)]))
    assert len(last) == 20
    assert pids(pool) == before


def test_leaving_the_pool_ends_its_processes() -> None:
    with DecodePool(TEXT, workers=3) as pool:
        collect(pool.run([Job(0, Modality.TEXT, text="x")]))
        running = pids(pool)
        assert len(running) == 3
    assert wait_for_end(running)


def test_an_error_of_the_consumer_ends_them_too() -> None:
    running: list[int] = []

    def consume() -> None:
        with DecodePool(TEXT, workers=1) as pool:
            for _ in pool.run([Job(0, Modality.TEXT, text="x"), Job(1, Modality.TEXT, text="hang")]):
                running.extend(pids(pool))
                raise RuntimeError("of the consumer")

    with pytest.raises(RuntimeError, match="of the consumer"):
        consume()
    assert running
    assert wait_for_end(running)


def test_no_pipes_are_left_open() -> None:
    def descriptors() -> int:
        gc.collect()
        return sum(1 for _ in Path("/dev/fd").iterdir())

    before = descriptors()
    for _ in range(2):
        with DecodePool(TEXT, workers=2) as pool:
            collect(pool.run([Job(0, Modality.TEXT, text="abort"), Job(1, Modality.TEXT, text="x")]))
    assert descriptors() == before


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits with pidfd, which is Linux's")
def test_workers_end_when_the_parent_is_killed() -> None:
    script = """
        from indexer.media.workers import DecodePool, Job
        from indexer.types import Modality
        from tests.indexer.media.preparers import Obedient
        pool = DecodePool({Modality.TEXT: Obedient()}, workers=2, timeout_s=60)
        list(pool.run([Job(0, Modality.TEXT, text="x"), Job(1, Modality.TEXT, text="y")]))
        print(*[keeper._worker.process.pid for keeper in pool._keepers], flush=True)
        input()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == 2
        handles = [os.pidfd_open(pid) for pid in children]
        parent.kill()
        for handle in handles:
            assert select.select([handle], [], [], 20.0)[0], "a worker outlived its parent"
            os.close(handle)
