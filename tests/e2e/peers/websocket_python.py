"""The websockets client with protobuf frames, and what goes wrong."""

import time

from pantelegraph.transfer.v1 import transfer_pb2 as pb
from peer import (
    IMAGE,
    TASK,
    begin_of,
    check_pong,
    checked,
    chunks_of,
    crc32c,
    expect,
    receipt_of,
    told,
)
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

URL = f"ws://{TASK['http']}/v1/stream"
HOSTILE = TASK["run"] + "-hostile"


class Session:
    def __init__(self, hello=True):
        self.socket = connect(URL, subprotocols=["pantelegraph.v1"], compression=None)
        expect(self.socket.subprotocol == "pantelegraph.v1", f"spoken: {self.socket.subprotocol}")
        self.sent = 0
        if hello:
            self.put(hello=pb.Hello(protocol_version=1, transmitter="websockets", agent="peer"))
            self.allowed = self.take("welcome").credit

    def put(self, **kind):
        self.socket.send(pb.ClientMessage(**kind).SerializeToString())

    def take(self, *wanted):
        while True:
            message = pb.ServerMessage.FromString(self.socket.recv(timeout=60))
            kind = message.WhichOneof("kind")
            if kind == "credit":
                self.allowed = max(self.allowed, message.credit.total)
            if kind in wanted:
                return getattr(message, kind)
            expect(kind == "credit", f"{kind} in place of {wanted}: {message}")

    def image(self, data, **fields):
        begin = begin_of(pb, data, **fields)
        self.put(begin=begin)
        for chunk in chunks_of(pb, begin.image_id, data):
            while self.sent + len(chunk.data) > self.allowed:
                self.take("credit")
            self.put(chunk=chunk)
            self.sent += len(chunk.data)
        self.put(end=pb.End(image_id=begin.image_id))

    def closed(self):
        """Code and reason with which the receiver closes."""
        try:
            while True:
                self.socket.recv(timeout=60)
        except ConnectionClosed as closed:
            expect(closed.rcvd, f"the connection broke: {closed}")
            return closed.rcvd.code, closed.rcvd.reason


def good():
    session = Session()
    t1 = time.time_ns()
    session.put(clock_ping=pb.ClockPing(id=9, t1_unix_ns=t1))
    check_pong(session.take("clock_pong"), 9, t1)
    for _ in range(2):
        session.image(IMAGE, name="websockets.jpg")
        told("websockets", receipt_of(pb, session.take("receipt")))
    start = time.monotonic()
    session.put(goodbye=pb.Goodbye(reason="done"))
    code, _ = session.closed()
    took = time.monotonic() - start
    # The receiver gives up a silent client after two; an answered goodbye takes milliseconds.
    expect(took < 1.5, f"after goodbye the connection stayed open for {took:.1f} s")
    expect(code == 1000, f"after goodbye the code is {code}")
    checked("websockets: goodbye is answered by close 1000")


def hostile():
    session = Session()
    session.socket.send("hello")
    code, reason = session.closed()
    expect(code == 1003 and "binary" in reason, f"text was answered by {code} {reason!r}")
    checked(f"websockets: text is answered by close 1003, {reason!r}")

    session = Session(hello=False)
    session.put(clock_ping=pb.ClockPing(id=1))
    reject = session.take("reject")
    expect(reject.reason == pb.REJECT_REASON_PROTOCOL, f"without hello: {reject}")
    checked("websockets: a session without hello is refused")

    session = Session()
    limit = TASK["max_message"]
    begin = begin_of(pb, IMAGE, run=HOSTILE, size=2 * limit)
    session.put(begin=begin)
    big = bytes(limit + (64 << 10))
    session.put(chunk=pb.Chunk(image_id=begin.image_id, data=big, crc32c=crc32c(big)))
    reject = session.take("reject")
    expect(reject.reason == pb.REJECT_REASON_LIMIT, f"a large message: {reject}")
    session.put(abort=pb.Abort(image_id=begin.image_id, reason="it was too large"))
    session.socket.send(b"\xff\xff\xff")
    reject = session.take("reject")
    expect(reject.reason == pb.REJECT_REASON_INVALID, f"no protobuf: {reject}")
    session.image(IMAGE, run=HOSTILE)
    session.take("receipt")
    checked("websockets: a large and a broken message are refused, the next image is stored")
    try:
        session.socket.send(bytes(16 * limit))
        code, reason = session.closed()
    except ConnectionClosed as closed:
        # The reason may come while the message is still being sent; it must not get lost.
        expect(closed.rcvd, f"the connection broke: {closed}")
        code, reason = closed.rcvd.code, closed.rcvd.reason
    expect(code == 1009, f"a very large message was answered by {code} {reason!r}")
    checked("websockets: a very large message is answered by close 1009")

    try:
        connect(URL, subprotocols=["other.v9"])
    except InvalidStatus as error:
        expect(error.response.status_code == 400, f"status {error.response.status_code}")
        checked("websockets: another subprotocol is refused")
    else:
        expect(False, "another subprotocol was accepted")


good()
hostile()
