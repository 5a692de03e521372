#!/usr/bin/env python3
"""Sends image files to a Pantelegraph receiver over gRPC, as one Exchange session.

    python3 grpc_client.py HOST:PORT FILE...

Prints each answer as one line of JSON. Needs grpcio and the code generated from proto/:

    python3 -m grpc_tools.protoc -I proto --python_out=gen --grpc_python_out=gen \\
        proto/pantelegraph/transfer/v1/transfer.proto
"""

import mimetypes
import pathlib
import queue
import sys
import time
import uuid

import grpc
from google.protobuf.json_format import MessageToJson
from pantelegraph.transfer.v1 import transfer_pb2 as pb
from pantelegraph.transfer.v1 import transfer_pb2_grpc as rpc

# CRC-32C (Castagnoli): reflected polynomial 0x82f63b78, one table entry for each byte.
TABLE = []
for entry in range(256):
    for _ in range(8):
        entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
    TABLE.append(entry)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Session:
    def __init__(self, address, transmitter):
        self.outgoing = queue.SimpleQueue()
        self.channel = grpc.insecure_channel(address)
        stub = rpc.TransferServiceStub(self.channel)
        # The request stream ends when None is put into the queue.
        self.incoming = stub.Exchange(iter(self.outgoing.get, None))
        self.put(hello=pb.Hello(protocol_version=1, transmitter=transmitter, agent="example"))
        welcome = self.take("welcome")
        self.sent, self.allowed = 0, welcome.credit
        self.chunk_size = min(256 << 10, welcome.limits.max_message_bytes)
        self.clock = self.measure_clock()

    def put(self, **kind):
        self.outgoing.put(pb.ClientMessage(**kind))

    def take(self, *wanted):
        """The next message of a wanted kind. Others (new kinds among them) are passed over."""
        for message in self.incoming:
            kind = message.WhichOneof("kind")
            if kind == "credit":
                self.allowed = max(self.allowed, message.credit.total)
            if kind in wanted:
                return getattr(message, kind)
            if kind in ("reject", "goodbye"):
                sys.exit(f"the receiver says: {message}")
        sys.exit("the receiver ended the session")

    def measure_clock(self):
        self.put(clock_ping=pb.ClockPing(id=1, t1_unix_ns=time.time_ns()))
        pong = self.take("clock_pong")
        t1, t2, t3, t4 = pong.t1_unix_ns, pong.t2_unix_ns, pong.t3_unix_ns, time.time_ns()
        round_trip = max((t4 - t1) - (t3 - t2), 0)
        offset = ((t2 - t1) + (t3 - t4)) // 2
        return pb.ClockEstimate(offset_ns=offset, error_ns=(round_trip + 1) // 2, samples=1)

    def send(self, path, run, sequence):
        """Sends one image; its Receipt or Reject."""
        data = path.read_bytes()
        begin = pb.Begin(
            image_id=str(uuid.uuid4()),
            size=len(data),
            content_type=mimetypes.guess_type(path.name)[0] or "",
            name=path.name,
            run=run,
            sequence=sequence,
            send_started_unix_ns=time.time_ns(),
            clock=self.clock,
            attempt=1,
        )
        self.put(begin=begin)
        for offset in range(0, len(data), self.chunk_size):
            while self.sent >= self.allowed:
                reply = self.take("credit", "receipt", "reject")
                if not isinstance(reply, pb.Credit):
                    # Answered before its end: the rest need not travel.
                    self.put(abort=pb.Abort(image_id=begin.image_id, reason="answered"))
                    return reply
            piece = data[offset : offset + self.chunk_size]
            chunk = pb.Chunk(image_id=begin.image_id, offset=offset, data=piece)
            chunk.crc32c = crc32c(piece)
            self.put(chunk=chunk)
            self.sent += len(piece)
        self.put(end=pb.End(image_id=begin.image_id))
        return self.take("receipt", "reject")

    def close(self):
        self.put(goodbye=pb.Goodbye(reason="done"))
        self.outgoing.put(None)
        for _ in self.incoming:
            pass
        self.channel.close()


def main(address, *files):
    session = Session(address, "python-grpc")
    run, refused = f"python-grpc-{int(time.time())}", 0
    for sequence, file in enumerate(files, 1):
        answer = session.send(pathlib.Path(file), run, sequence)
        print(MessageToJson(answer, preserving_proto_field_name=True, indent=None))
        refused += isinstance(answer, pb.Reject)
    session.close()
    return 1 if refused else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
