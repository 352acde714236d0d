"""The search against a breadth-first search in plain Python, on graphs where both can count."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmuwitness.explore import core_cache, search_memory, search_workers
from mmuwitness.explore.search import Progress, SearchResult, StopWhen, search
from mmuwitness.process import disk_cache
from tests.explore.native_models import (
    Graph,
    State,
    counter_model,
    graph_model,
    random_graph,
    token_ring,
    tree_model,
)

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = (1, 2, 3, 5)


@pytest.fixture
def divide_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_workers, "DIVIDE_STATES", 20)
    monkeypatch.setattr(search_workers, "DIVIDE_FRONTIER", 1)


def explore(graph: Graph, *, threads: int = 1, stop_when: StopWhen | None = None) -> SearchResult:
    model = graph_model(graph)
    most = max(1, *map(len, graph.steps.values()))
    return search(model.address, graph.initial, most, threads=threads, stop_when=stop_when)


def assert_same(graph: Graph, result: SearchResult) -> None:
    """A complete search found what breadth-first search in Python finds."""
    depths = graph.depths()
    indices = list(result.indices())
    assert result.complete
    assert result.stopped is None
    assert result.unexpanded == 0
    assert sorted(result.state(index) for index in indices) == sorted(depths)
    assert result.states == len(depths)
    assert result.edges == sum(len(graph.steps[state]) for state in depths)
    assert result.depth == max(depths.values())
    for index in indices[:: max(1, len(indices) // 50)]:
        assert_path(graph, result, index, depths[result.state(index)])
    assert_shallowest(graph, result, depths)


def assert_path(graph: Graph, result: SearchResult, index: int, depth: int) -> None:
    path = result.path(index)
    assert len(path) == depth + 1
    assert path[0] == graph.initial
    assert path[-1] == result.state(index)
    for state, after in itertools.pairwise(path):
        assert after in [step.target for step in graph.steps[state]]


def assert_shallowest(graph: Graph, result: SearchResult, depths: dict[State, int]) -> None:
    claims: dict[int, int] = {}
    marks: dict[int, int] = {}
    dead = [depth for state, depth in depths.items() if graph.info_of(state)[1]]
    for state, depth in depths.items():
        for claim in bits(graph.info_of(state)[0]):
            claims[claim] = min(depth, claims.get(claim, depth))
        for step in graph.steps[state]:
            for mark in bits(step.marks):
                marks[mark] = min(depth, marks.get(mark, depth))
    assert {c: depths[result.state(at)] for c, at in result.violated.items()} == claims
    assert {mark: cover.depth for mark, cover in result.covered.items()} == marks
    assert result.covers == sum(1 << mark for mark in marks)
    for claim, at in result.violated.items():
        assert graph.info[result.state(at)][0] >> claim & 1
    for mark, cover in result.covered.items():
        steps = graph.steps[result.state(cover.state)]
        assert any(step.label == cover.label and step.marks >> mark & 1 for step in steps)
    assert (result.deadlock is None) == (not dead)
    if result.deadlock is not None:
        assert depths[result.state(result.deadlock)] == min(dead)


def bits(mask: int) -> list[int]:
    return [bit for bit in range(64) if mask >> bit & 1]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.usefixtures("divide_early")
def test_finds_what_plain_python_finds(width: int, threads: int) -> None:
    for seed in range(6):
        position = seed % width
        graph = random_graph(seed, width, position)
        assert_same(graph, explore(graph, threads=threads))


@pytest.mark.usefixtures("divide_early")
def test_small_batches_and_tables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_workers, "BATCH_ROOM", 1)
    monkeypatch.setattr(search_memory, "FIRST_CAPACITY", 1)
    for seed, threads in itertools.product(range(4), (1, 2, 5)):
        graph = random_graph(seed, 2, 1, size=3000)
        assert_same(graph, explore(graph, threads=threads))


@pytest.mark.parametrize("width", WIDTHS)
def test_counts_counters(width: int) -> None:
    result = search(counter_model(6, 5, width).address, [0] * width, 6)
    assert (result.states, result.edges, result.depth) == (6**6, 6 * 5 * 6**5, 30)
    assert result.deadlock is not None
    assert len(result.path(result.deadlock)) == 31
    assert len(result.path(result.violated[0])) == 6
    assert {mark: cover.depth for mark, cover in result.covered.items()} == dict.fromkeys(
        range(6), 4
    )
    assert {mark: cover.label for mark, cover in result.covered.items()} == {
        mark: mark for mark in range(6)
    }


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tables_grow(threads: int) -> None:
    result = search(counter_model(8, 5, 2).address, [0, 0], 8, threads=threads)
    assert (result.states, result.edges, result.depth) == (6**8, 8 * 5 * 6**7, 40)
    assert result.complete
    assert len(result._parts) == threads  # large enough to be divided
    distinct = {result.state(index) for index in itertools.islice(result.indices(), 0, None, 97)}
    assert len(distinct) == -(-(6**8) // 97)
    # A state, its parent, and a table that has room for up to four times as many.
    assert result.bytes_per_state < 8 * 2 + 4 + 4 * 7


def test_a_token_ring_never_has_two_owners() -> None:
    graph = token_ring(5)
    result = explore(graph)
    assert_same(graph, result)
    assert result.violated == {}
    assert result.depth > 5


@pytest.mark.usefixtures("divide_early")
def test_each_run_numbers_the_states_alike() -> None:
    graph = random_graph(7, 2, 0, size=5000)
    for threads in (1, 2, 3):
        first, second = (explore(graph, threads=threads) for _ in range(2))
        assert list(map(first.state, first.indices())) == list(map(second.state, second.indices()))
        assert (first.violated, first.covered) == (second.violated, second.covered)


def test_one_state_without_a_step() -> None:
    graph = Graph((0,), 0, {(0,): []}, {(0,): (0, 1, 0, 0)})
    result = explore(graph)
    assert (result.states, result.edges, result.depth, result.deadlock) == (1, 0, 0, 0)
    assert result.path(0) == [(0,)]
    with pytest.raises(IndexError):
        result.state(1)


def test_words_may_be_signed_or_unsigned() -> None:
    model = counter_model(1, 1, 1)
    assert search(model.address, [-256], 1).state(0) == (2**64 - 256,)
    assert search(model.address, [2**64 - 256], 1).state(1) == (2**64 - 255,)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("divide_early")
def test_stops_when_decided(threads: int) -> None:
    address = counter_model(8, 5, 2).address

    def run(stop_when: StopWhen) -> SearchResult:
        result = search(address, [0, 0], 8, threads=threads, stop_when=stop_when)
        assert result.stopped == "decided"
        assert not result.complete
        assert 0 < result.unexpanded < result.states < 6**8
        return result

    assert len(run(StopWhen(claims=1)).path(0)) == 1
    assert set(run(StopWhen(covers=0b110)).covered) >= {1, 2}
    later = run(StopWhen(claims=1, covers=1))
    sooner = run(StopWhen(claims=1 << 5, covers=1, any_of=True))
    assert sooner.edges < later.edges
    assert run(StopWhen(deadlock=True, covers=1, any_of=True)).edges == sooner.edges
    # What never happens does not end a search.
    assert search(address, [0, 0], 8, stop_when=StopWhen(claims=2)).complete


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("divide_early")
def test_stops_at_a_shallowest_error(threads: int) -> None:
    graph = random_graph(3, 2, 1, size=2000)
    depths = graph.depths()
    erring = [state for state in depths if depths[state] in (6, 7)]
    graph.info.update(dict.fromkeys(erring, (0, 0, 17, 42)))
    result = explore(graph, threads=threads)
    assert result.stopped == "error"
    assert not result.complete
    assert result.error is not None
    assert (result.error.site, result.error.label) == (17, 42)
    assert len(result.path(result.error.state)) == 7
    assert result.states < len(depths)


@pytest.mark.parametrize("threads", [1, 2])
def test_keeps_what_fits_into_the_memory(threads: int) -> None:
    limit = 8 << 20
    address = counter_model(12, 5, 3).address
    result = search(address, [0] * 3, 12, threads=threads, memory_limit_bytes=limit)
    assert result.stopped == "memory"
    assert not result.complete
    assert limit // 2 < result.states * result.bytes_per_state < limit
    last = max(result.indices(), key=lambda index: sum_of_bytes(result.state(index)))
    path = result.path(last)
    assert [sum_of_bytes(state) for state in path] == list(range(len(path)))
    assert len(path) == result.depth + 1


def sum_of_bytes(state: State) -> int:
    return sum(sum(word.to_bytes(8, "little")) for word in state)


def test_works_where_address_space_is_scarce() -> None:
    code = """if True:
        import resource
        from mmuwitness.explore.search import search
        from tests.explore.native_models import counter_model
        model = counter_model(8, 4, 2)
        resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
        for threads in (1, 2):
            result = search(model.address, [0, 0], 8, threads=threads, memory_limit_bytes=1 << 40)
            print(result.states, result.complete)
    """
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == f"{5**8} True\n" * 2


def test_stops_before_indices_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_memory, "INDEX_LIMIT", 5000)
    result = search(counter_model(12, 5, 3).address, [0] * 3, 12)
    assert result.stopped == "indices"
    assert 2000 < result.states <= 5000


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_keeps_what_was_found(threads: int) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    model = tree_model()
    # a shell that puts the tests into the background has them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        result = search(model.address, [1], 2, threads=threads, memory_limit_bytes=4 << 30)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert result.stopped == "interrupted"
    assert result.states > 10_000
    deepest = max(itertools.islice(result.indices(), 0, None, 1001), key=result.state)
    path = [state for (state,) in result.path(deepest)]
    assert path == [path[-1] >> n for n in reversed(range(len(path)))]


@pytest.mark.parametrize("threads", [1, 2])
def test_reports_progress(threads: int) -> None:
    seen: list[Progress] = []
    model = tree_model()
    result = search(
        model.address, [1], 2, threads=threads, memory_limit_bytes=300 << 20, progress=seen.append
    )
    assert seen
    assert [each.states for each in seen] == sorted(each.states for each in seen)
    assert all(b.seconds - a.seconds > 0.099 for a, b in itertools.pairwise(seen))
    assert all(0 < each.frontier <= each.states <= result.states for each in seen)
    assert all(each.rate >= 0 and each.depth <= result.depth for each in seen)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("divide_early")
def test_a_model_must_keep_to_what_it_declares(threads: int) -> None:
    graph = random_graph(1, 1, 0)
    model = graph_model(graph)
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 4)

    @kind
    def lies(state: int, out: int, meta: int, info: int) -> int:
        number = ctypes.c_uint64.from_address(state).value
        many = int(kind(model.address)(state, out, meta, info))
        return many if number < 300 else 9

    address = ctypes.cast(lies, ctypes.c_void_p).value
    assert address is not None
    with pytest.raises(RuntimeError, match="max_successors = 3"):
        search(address, graph.initial, 3, threads=threads)


@pytest.mark.parametrize(
    ("address", "initial", "most", "threads", "complaint"),
    [
        (0, [0], 1, 1, "no address"),
        (1, [], 1, 1, "at least one word"),
        (1, [0], 0, 1, "max_successors = 0"),
        (1, [0], 1, 0, "threads = 0"),
        (1, [0], 1, 63, "threads = 63"),
    ],
)
def test_says_what_is_wrong_with_the_arguments(
    address: int, initial: list[int], most: int, threads: int, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        search(address, initial, most, threads=threads)


def test_a_warm_start_does_not_import_numba() -> None:
    core_cache.search_core(2)  # in the cache from here on
    code = (
        "import sys\n"
        "from mmuwitness.explore import core_cache, search\n"
        "core_cache.search_core(2)\n"
        "print([name for name in ('numba', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_cache_trusts_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMUWITNESS_CACHE", str(tmp_path / "cache"))
    made = iter((b"first", b"second"))
    assert disk_cache.cached("thing", ["a", "b"], lambda: next(made)) == b"first"
    assert disk_cache.cached("thing", ["a", "b"], lambda: next(made)) == b"first"
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert disk_cache.cached("thing", ["a", "b"], lambda: next(made)) == b"second"
    assert disk_cache.cached("thing", ["ab"], lambda: b"other") == b"other"


def test_a_cache_that_cannot_be_written_is_only_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMUWITNESS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="MMUWITNESS_CACHE"):
        assert disk_cache.cached("thing", ["a"], lambda: b"made") == b"made"
