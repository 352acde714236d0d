"""Writes a trace for ui.perfetto.dev, packet by packet: tracks, slices, instants, counters, arrows.

Perfetto sorts packets by time and keeps the order of the file among equal times, so packets of one
track must come in order, those of different tracks need not. Slices of one track must nest. An
arrow (a flow) leads from the event that first has its id to the next one: in that order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    DebugAnnotation,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

SEQUENCE_ID = 1  # we are the only writer
VALUE_LIMIT = 1 << 64


class Hex(int):
    """A number that is read in hexadecimal: an address, a gfn, a pfn."""


def hexadecimal(value: int | None) -> Hex | None:
    """To be read so; None stays None."""
    return None if value is None else Hex(value)


Value = bool | int | str | Sequence[str] | None
Details = Mapping[str, Value]
NO_DETAILS: Details = {}


class PerfettoWriter:
    """Writes to `file` as it is told. Times are ns, from 0; tracks are the numbers of `track`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._builder = StreamingTraceProtoBuilder(file)
        self._names: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._first = True
        self.tracks = 0

    def track(self, name: str, parent: int = 0, rank: int = 0, description: str = "") -> int:
        """A new track, or a group of tracks; those with one name and parent are drawn as one."""
        return self._describe(name, parent, rank, description, False)

    def counter(self, name: str, parent: int, rank: int, description: str) -> int:
        """A new track for `count`."""
        return self._describe(name, parent, rank, description, True)

    def _describe(self, name: str, parent: int, rank: int, description: str, counter: bool) -> int:
        self.tracks += 1
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE_ID
        descriptor = packet.track_descriptor
        descriptor.uuid, descriptor.name = self.tracks, name
        if parent:
            descriptor.parent_uuid = parent
        descriptor.sibling_order_rank = rank
        descriptor.child_ordering = TrackDescriptor.EXPLICIT
        if description:
            descriptor.description = description
        if counter:
            descriptor.counter.SetInParent()
        self._write(packet)
        return self.tracks

    def begin(
        self, track: int, time: int, name: str, details: Details = NO_DETAILS, arrow: int = 0
    ) -> None:
        """A slice begins; `arrow` ends here."""
        packet = self._event(track, time, TrackEvent.TYPE_SLICE_BEGIN, details)
        self._name(packet, name)
        if arrow:
            packet.track_event.terminating_flow_ids.append(arrow)
        self._write(packet)

    def end(self, track: int, time: int, details: Details = NO_DETAILS, arrow: int = 0) -> None:
        """The innermost slice ends; `arrow` ends there."""
        packet = self._event(track, time, TrackEvent.TYPE_SLICE_END, details)
        if arrow:
            packet.track_event.terminating_flow_ids.append(arrow)
        self._write(packet)

    def instant(
        self,
        track: int,
        time: int,
        name: str,
        details: Details = NO_DETAILS,
        starts: int = 0,
        ends: int = 0,
    ) -> None:
        """Something that takes no time; an arrow starts or ends here."""
        packet = self._event(track, time, TrackEvent.TYPE_INSTANT, details)
        self._name(packet, name)
        if starts:
            packet.track_event.flow_ids.append(starts)
        if ends:
            packet.track_event.terminating_flow_ids.append(ends)
        self._write(packet)

    def count(self, track: int, time: int, value: int) -> None:
        """A counter has this value from here on."""
        packet = self._event(track, time, TrackEvent.TYPE_COUNTER, NO_DETAILS)
        packet.track_event.counter_value = value
        self._write(packet)

    def _event(self, track: int, time: int, kind: int, details: Details) -> TracePacket:
        packet = self._builder.create_packet()
        packet.timestamp = time
        packet.trusted_packet_sequence_id = SEQUENCE_ID
        packet.sequence_flags = TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        packet.track_event.type = kind
        packet.track_event.track_uuid = track
        for key, value in details.items():
            if value is not None:
                self._annotate(packet, key, value)
        return packet

    def _name(self, packet: TracePacket, name: str) -> None:
        """Names are written once, and numbered."""
        number = self._names.get(name)
        if number is None:
            number = self._names[name] = len(self._names) + 1
            packet.interned_data.event_names.add(iid=number, name=name)
        packet.track_event.name_iid = number

    def _annotate(self, packet: TracePacket, key: str, value: Value) -> None:
        number = self._keys.get(key)
        if number is None:
            number = self._keys[key] = len(self._keys) + 1
            packet.interned_data.debug_annotation_names.add(iid=number, name=key)
        self._set(packet.track_event.debug_annotations.add(name_iid=number), value)

    @staticmethod
    def _set(annotation: DebugAnnotation, value: Value) -> None:
        if isinstance(value, bool):
            annotation.bool_value = value
        elif isinstance(value, Hex):
            annotation.pointer_value = value % VALUE_LIMIT
        elif isinstance(value, int):
            annotation.int_value = value
        elif isinstance(value, str):
            annotation.string_value = value
        else:
            for each in value or ():
                annotation.array_values.add(string_value=each)

    def _write(self, packet: TracePacket) -> None:
        if self._first:
            packet.first_packet_on_sequence = True
            packet.sequence_flags |= TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
            self._first = False
        self._builder.write_packet(packet)
