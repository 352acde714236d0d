"""Real traces as Perfetto shows them, against what is counted in their text itself."""

import lzma
import re
from collections import Counter
from functools import cache

import pytest

from mmuwitness.report.perfetto import Exported, export_perfetto
from mmuwitness.trace.open import open_trace
from tests.report.perfetto_decoded import Decoded, Slice, decode
from tests.trace.audited import DATA

KSM, COW = "x86/6.1-tdp-ksm-merge.txt.xz", "x86/6.1-tdp-cow-break.txt.xz"
STRESS, NEWER = "x86/6.1-tdp-stress-ksm.txt.xz", "x86/6.12-tdp-cow-break.txt.xz"
ARM64, ARM64_NEWER = "arm64/scn6.1_a57.trace.xz", "arm64/scn6.12_a57.trace.xz"
FAULTS = ("kvm_page_fault", "kvm_guest_fault")
STOCK = "x86/6.1-stock-cow-break.txt.xz"
PRESENT, LARGE = 1 << 11, 1 << 7

LINE = re.compile(r"-(\d+) +\[\d+\] .{5} +(\d+)\.(\d{6}): (\w+): (.*)")
RANGE = re.compile(r"start=0x(\w+) end=0x(\w+)")
SPTE = re.compile(r"gfn (\w+) level (\d) old_spte (\w+) new_spte (\w+)")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports a trace of tests/data, once, and reads it back."""

    @cache
    def export(name: str) -> tuple[Decoded, Exported]:
        path = tmp_path_factory.mktemp("perfetto") / "trace.pftrace"
        done = export_perfetto(open_trace(str(DATA / name)), path)
        return decode(path), done

    return export


@cache
def lines(name: str) -> list[tuple[int, int, str, str]]:
    """pid, ns, event and payload of each line."""
    text = lzma.decompress((DATA / name).read_bytes()).decode()
    return [
        (int(pid), (int(seconds) * 10**6 + int(micros)) * 1000, event, payload)
        for pid, seconds, micros, event, payload in LINE.findall(text)
    ]


def windows_in(name: str, start: str, end: str) -> Counter:
    """pid, range and times of each window in the text: an end is that of the last such start."""
    found: Counter = Counter()
    begun: dict = {}
    for pid, time, event, payload in lines(name):
        if event in (start, end):
            key = pid, *(int(each, 16) for each in RANGE.search(payload).groups())
            if event == start:
                begun.setdefault(key, []).append(time)
            else:
                found[(*key, begun[key].pop(), time)] += 1
    assert not any(begun.values())
    return found


def shown(decoded: Decoded) -> Counter:
    found: Counter = Counter()
    for each in decoded.under("Windows"):
        pid = int(decoded.track_name(each.track).split()[-1])
        hvas = each.details["hva start"], each.details["hva end"]
        found[pid, *hvas, each.begin, each.end] += 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "start", "end", "count"),
    [
        (KSM, "mn_start", "mn_end", 78),
        (COW, "mn_start", "mn_end", 86),
        (STRESS, "mn_start", "mn_end", 259),
        (NEWER, "mn_start", "mn_end", 87),
        (ARM64, "istart", "iend", 1253),
    ],
)
def test_windows_are_slices(exported, name: str, start: str, end: str, count: int) -> None:
    decoded, done = exported(name)
    expected = windows_in(name, start, end)
    assert expected.total() == done.windows == count
    assert shown(decoded) == expected


def test_windows_have_causes_and_pages(exported) -> None:
    decoded, _ = exported(KSM)
    windows = decoded.under("Windows")
    ksm = [each for each in windows if decoded.track_name(each.track).startswith("ksmd ")]
    names = Counter(each.name for each in ksm)
    assert names == {"KSM write-protect": 36, "KSM replace": 35}
    assert {each.details["pages"] for each in ksm} == {1}
    assert all(each.name == each.details["cause"] for each in windows)
    zapped = [each for each in ksm if each.details["SPTEs zapped"]]
    assert len(zapped) == 32
    assert len([each for each in decoded.instants if each.parent in zapped]) == 32


@pytest.mark.parametrize(
    ("name", "faults"), [(KSM, 78), (COW, 94), (STRESS, 4692), (STOCK, 94), (ARM64, 1242)]
)
def test_faults_are_slices_of_vcpus(exported, name: str, faults: int) -> None:
    decoded, done = exported(name)
    slices = [each for each in decoded.under("VM 0") if each.depth == 0]
    text = lines(name)
    begun = {(pid, time) for pid, time, event, _ in text if event in FAULTS}
    assert len(begun) == faults == done.faults == len(slices)
    pid = {each: int(decoded.track_name(each.track).split()[-1]) for each in slices}
    assert {(pid[each], each.begin) for each in slices} == begun


def leaf(spte: int, level: int) -> bool:
    return bool(spte & PRESENT) and (level == 1 or bool(spte & LARGE))


def spte_changes(name: str):
    """Time, gfn, whether a leaf was there and whether one is, of the TDP MMU."""
    for _, time, event, payload in lines(name):
        if event == "kvm_tdp_mmu_spte_changed":
            gfn, level, old, new = (int(each, 16) for each in SPTE.search(payload).groups())
            yield time, gfn, leaf(old, level), leaf(new, level)


@pytest.mark.parametrize("name", [KSM, COW, STRESS, STOCK, NEWER])
def test_arrows_lead_from_each_zap_to_who_mapped_the_page_again(exported, name: str) -> None:
    decoded, done = exported(name)
    expected, zapped = [], {}
    for time, gfn, was, is_ in spte_changes(name):
        if was and not is_:
            zapped[gfn] = time
        elif is_ and not was and gfn in zapped:
            expected.append((zapped.pop(gfn), gfn, time))
    assert len(expected) == len(decoded.arrows) == done.arrows > 30
    found = sorted(((zap.begin, zap.details["gfn"], back) for zap, back in decoded.arrows), key=key)
    for (zapped_at, gfn, mapped_at), (time, shown_gfn, back) in zip(
        sorted(expected), found, strict=True
    ):
        assert (time, shown_gfn) == (zapped_at, gfn)
        assert back.begin <= mapped_at <= back.end
        assert back.details["gfn"] == gfn
        assert decoded.group(back.track) == "VM 0"


def key(arrow: tuple[int, int, Slice]) -> tuple[int, int]:
    return arrow[:2]


def test_each_page_that_a_guest_breaks_out_of_ksm(exported) -> None:
    """Its SPTE is zapped in the window of the guest's own fault, which retries; then an arrow."""
    decoded, _ = exported(COW)
    breaks = [each for each in decoded.under("Windows") if each.name == "COW, guest write"]
    retries = [each for each in decoded.slices if each.name == "retry because of COW, guest write"]
    assert len(breaks) == len(retries) == 16  # the guest writes to 16 of the merged pages
    zaps = [each for each in decoded.instants if each.parent in breaks]
    backs = {zap: back for zap, back in decoded.arrows if zap in zaps}
    assert len(backs) == len(zaps) == 8  # it had read 8 of them before
    for zap, back in backs.items():
        assert back.name == "refault after COW, guest write"
        (retry,) = [each for each in retries if each.details["gfn"] == zap.details["gfn"]]
        assert retry.begin <= zap.parent.begin < zap.parent.end <= retry.end < back.begin
        assert retry.details["retry because of its own window"]
        assert retry.details["retry because of window"] == zap.parent.details["window"]
        assert retry.track == back.track


def test_change_pte_on_arm64_maps_again(exported) -> None:
    """1216 calls of change_pte() install a leaf where one was just zapped, and then the guest does
    not fault: of what KSM merged it does so for the 2 pages that are alone in their tables. Without
    change_pte(), from 6.12 on, it faults for the other 408 that it reads again, too."""
    decoded, _ = exported(ARM64)
    by_call = [pair for pair in decoded.arrows if pair[1].details.get("by") == "change_pte"]
    assert len(by_call) == 1216
    for zap, back in by_call:
        assert back.details["gfn"] == zap.details["gfn"]
        assert back.parent is zap.parent
        assert back.parent.details["change_pte"] == ["1 installed a read-only leaf"]
    newer, _ = exported(ARM64_NEWER)
    assert not any(back.details.get("by") for _, back in newer.arrows)
    merged = "refault after KSM write-protect"
    counts = [sum(back.name == merged for _, back in each.arrows) for each in (decoded, newer)]
    assert counts == [2, 410]


READING = re.compile(r"seq=(\d+) inprog=(\d+)")


@pytest.mark.parametrize("name", [KSM, COW, STRESS, NEWER])
def test_counters_are_what_probes_read(exported, name: str) -> None:
    decoded, _ = exported(name)
    probes = ("kvm_start", "kvm_end", "kvm_change_pte")
    read = [
        (time, *map(int, found.groups()))
        for _, time, event, payload in lines(name)
        if event in probes and (found := READING.search(payload))
    ]
    assert read
    readings = {decoded.track_name(track): each for track, each in decoded.counters.items()}
    assert readings["mmu_invalidate_seq"] == [(time, seq) for time, seq, _ in read]
    assert readings["mmu_invalidate_in_progress"] == [(time, count) for time, _, count in read]
    highest = max(count for _, count in decoded.counter("windows open over memslots"))
    assert highest == max(count for _, _, count in read)
    assert decoded.counter("windows open over memslots")[-1][1] == 0


@pytest.mark.parametrize("name", [KSM, COW])
def test_windows_open_are_those_that_kvm_counts(exported, name: str) -> None:
    decoded, _ = exported(name)
    moments = decoded.counter("windows open over memslots")
    calls = [each for each in lines(name) if each[2] == "kvm_change_pte"]
    for _, time, _, payload in calls:
        open_ = [count for moment, count in moments if moment <= time][-1]
        assert [str(open_)] == [count for _, count in READING.findall(payload)]


@pytest.mark.parametrize("name", [KSM, COW, STRESS, STOCK, NEWER])
def test_sptes_are_counted(exported, name: str) -> None:
    decoded, _ = exported(name)
    count, expected = 0, []
    for time, _, was, is_ in spte_changes(name):
        if was != is_:
            count += 1 if is_ else -1
            expected.append((time, count))
    assert decoded.counter("SPTEs") == expected


def test_starts_alone_are_instants(exported) -> None:
    """Stock tracepoints record no ends: a window takes no time that is known."""
    decoded, done = exported(STOCK)
    assert not decoded.under("Windows")
    windows = [each for each in decoded.instants if each.details.get("end") == "not recorded"]
    assert len(windows) == done.windows == 85
    assert Counter(each.name for each in windows)["COW, guest write"] == 16
    stack = next(each.details["stack"] for each in windows if each.name == "COW, guest write")
    assert "do_wp_page" in stack or "wp_page_copy" in stack


def test_it_says_what_the_times_are(exported) -> None:
    decoded, _ = exported(KSM)
    (about,) = decoded.under("About this trace")
    times = [time for _, time, _, _ in lines(KSM)]
    assert (about.begin, about.end) == (times[0], times[-1])
    assert "emulated" in about.name
    assert about.details["unit of times"] == "ns"
    assert about.details["complete"] is True
    assert "emulated CPU" in about.details["durations"]
