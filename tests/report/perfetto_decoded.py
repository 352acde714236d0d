"""Reads a Perfetto trace back as its viewer does: sorted by time, then in the order of the file."""

from dataclasses import dataclass, field
from pathlib import Path

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    DebugAnnotation,
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)


@dataclass(eq=False)
class Slice:
    """A slice, or an instant: then `end` is `begin`."""

    track: int
    name: str
    begin: int
    end: int | None
    details: dict
    depth: int
    parent: "Slice | None"


@dataclass
class Decoded:
    """What the viewer would show."""

    tracks: dict[int, TrackDescriptor] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    instants: list[Slice] = field(default_factory=list)
    arrows: list[tuple[Slice, Slice]] = field(default_factory=list)
    counters: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def track_name(self, number: int) -> str:
        return self.tracks[number].name

    def group(self, number: int) -> str:
        """The name of the outermost track around it."""
        while parent := self.tracks[number].parent_uuid:
            number = parent
        return self.tracks[number].name

    def counter(self, name: str) -> list[tuple[int, int]]:
        """Times and values of the one counter of this name."""
        (number,) = [track for track in self.counters if self.track_name(track) == name]
        return self.counters[number]

    def under(self, group: str) -> list[Slice]:
        return [each for each in self.slices if self.group(each.track) == group]


def decode(path: Path) -> Decoded:
    """Fails where the viewer would drop something or draw what was not meant."""
    decoded = Decoded()
    names: dict[int, str] = {}
    keys: dict[int, str] = {}
    events: list[tuple[int, int, TracePacket, str, dict]] = []
    for position, packet in enumerate(Trace.FromString(path.read_bytes()).packet):
        assert packet.trusted_packet_sequence_id
        assert packet.first_packet_on_sequence == (position == 0)
        cleared = packet.sequence_flags & TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        assert bool(cleared) == (position == 0)
        names |= {each.iid: each.name for each in packet.interned_data.event_names}
        keys |= {each.iid: each.name for each in packet.interned_data.debug_annotation_names}
        if packet.HasField("track_descriptor"):
            descriptor = packet.track_descriptor
            assert descriptor.uuid not in decoded.tracks
            assert descriptor.parent_uuid in {0, *decoded.tracks}
            decoded.tracks[descriptor.uuid] = descriptor
            continue
        event = packet.track_event
        assert event.track_uuid in decoded.tracks
        name = names[event.name_iid] if event.name_iid else ""
        details = {keys[each.name_iid]: value_of(each) for each in event.debug_annotations}
        events.append((packet.timestamp, position, packet, name, details))
    events.sort(key=lambda each: each[:2])
    draw(decoded, events)
    return decoded


def value_of(annotation: DebugAnnotation) -> object:
    kind = annotation.WhichOneof("value")
    if kind is None:
        return [each.string_value for each in annotation.array_values]
    return getattr(annotation, kind)


def draw(decoded: Decoded, events: list) -> None:
    open_: dict[int, list[Slice]] = {}
    arrows: dict[int, Slice] = {}
    for time, _, packet, name, details in events:
        event = packet.track_event
        track = event.track_uuid
        if event.type == TrackEvent.TYPE_COUNTER:
            assert decoded.tracks[track].HasField("counter")
            decoded.counters.setdefault(track, []).append((time, event.counter_value))
            continue
        assert not decoded.tracks[track].HasField("counter")
        stack = open_.setdefault(track, [])
        if event.type == TrackEvent.TYPE_SLICE_END:
            assert stack, "an end without its begin"
            drawn = stack.pop()
            drawn.end = time
            drawn.details |= details
        else:
            assert name
            parent = stack[-1] if stack else None
            drawn = Slice(track, name, time, None, details, len(stack), parent)
            if event.type == TrackEvent.TYPE_SLICE_BEGIN:
                stack.append(drawn)
                decoded.slices.append(drawn)
            else:
                assert event.type == TrackEvent.TYPE_INSTANT
                drawn.end = time
                decoded.instants.append(drawn)
        for arrow in event.flow_ids:
            assert arrow not in arrows
            arrows[arrow] = drawn
        for arrow in event.terminating_flow_ids:
            decoded.arrows.append((arrows.pop(arrow), drawn))
    assert not any(open_.values()), "a begin without its end"
