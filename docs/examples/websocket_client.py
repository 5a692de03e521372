#!/usr/bin/env python3
"""Sends image files to a Pantelegraph receiver over WebSocket.

    python3 websocket_client.py ws://HOST:PORT/v1/stream FILE...

Prints each answer as one line of JSON. Needs websockets, protobuf and the messages generated from
proto/:

    python3 -m grpc_tools.protoc -I proto --python_out=gen \\
        proto/pantelegraph/transfer/v1/transfer.proto
"""

import mimetypes
import pathlib
import sys
import time
import uuid

from google.protobuf.json_format import MessageToJson
from pantelegraph.transfer.v1 import transfer_pb2 as pb
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def put(socket, **kind):
    """One message is one binary frame."""
    socket.send(pb.ClientMessage(**kind).SerializeToString())


def take(socket, *wanted):
    """The next message of a wanted kind, with its kind."""
    while True:
        message = pb.ServerMessage.FromString(socket.recv())
        kind = message.WhichOneof("kind")
        if kind in wanted:
            return kind, getattr(message, kind)
        if kind in ("reject", "goodbye"):
            sys.exit(f"the receiver says: {message}")


def main(url, *files):
    refused = 0
    # Images are compressed already, and the receiver offers no extension.
    with connect(url, subprotocols=["pantelegraph.v1"], compression=None) as socket:
        put(socket, hello=pb.Hello(protocol_version=1, transmitter="python-websocket"))
        _, welcome = take(socket, "welcome")
        sent, allowed = 0, welcome.credit
        chunk_size = min(256 << 10, welcome.limits.max_message_bytes)
        run = f"python-websocket-{int(time.time())}"
        for sequence, file in enumerate(map(pathlib.Path, files), 1):
            data, image_id = file.read_bytes(), str(uuid.uuid4())
            begin = pb.Begin(
                image_id=image_id,
                size=len(data),
                content_type=mimetypes.guess_type(file.name)[0] or "",
                name=file.name,
                run=run,
                sequence=sequence,
                send_started_unix_ns=time.time_ns(),
            )
            put(socket, begin=begin)
            answer = None
            for offset in range(0, len(data), chunk_size):
                while sent >= allowed and not answer:
                    kind, reply = take(socket, "credit", "receipt", "reject")
                    if kind == "credit":
                        allowed = max(allowed, reply.total)
                    else:
                        answer = reply
                if answer:
                    break
                piece = data[offset : offset + chunk_size]
                # Chunk.crc32c is optional; grpc_client.py shows how to make it.
                put(socket, chunk=pb.Chunk(image_id=image_id, offset=offset, data=piece))
                sent += len(piece)
            # Of an image that was answered before its end, this is ignored.
            put(socket, end=pb.End(image_id=image_id))
            while not answer:
                kind, reply = take(socket, "credit", "receipt", "reject")
                if kind == "credit":
                    allowed = max(allowed, reply.total)
                else:
                    answer = reply
            print(MessageToJson(answer, preserving_proto_field_name=True, indent=None))
            refused += isinstance(answer, pb.Reject)
        put(socket, goodbye=pb.Goodbye(reason="done"))
        # The receiver closes when everything is answered.
        try:
            while True:
                socket.recv()
        except ConnectionClosed:
            pass
    return 1 if refused else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
