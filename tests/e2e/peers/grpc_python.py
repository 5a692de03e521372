"""grpcio, with code that grpcio-tools made from proto/: all four calls, and what goes wrong."""

import queue
import threading
import time

import grpc
from pantelegraph.transfer.v1 import transfer_pb2 as pb
from pantelegraph.transfer.v1 import transfer_pb2_grpc as rpc
from peer import (
    IMAGE,
    TASK,
    begin_of,
    check_pong,
    checked,
    chunks_of,
    crc32c,
    expect,
    new_id,
    receipt_of,
    told,
    xxh3,
)

HOSTILE = TASK["run"] + "-hostile"
TIMEOUT = 60


def xxh3_of(data):
    return pb.Digest(algorithm=pb.DIGEST_ALGORITHM_XXH3_128, value=xxh3(data))


class Session:
    """An Exchange. The request stream ends when None is put into the queue."""

    def __init__(self, stub, unfinished=()):
        self.outgoing = queue.SimpleQueue()
        self.incoming = stub.Exchange(iter(self.outgoing.get, None), timeout=TIMEOUT)
        hello = pb.Hello(protocol_version=1, transmitter="grpcio", agent="peer")
        hello.unfinished.extend(unfinished)
        self.put(hello=hello)
        self.welcome = self.take("welcome")
        self.sent, self.allowed = 0, self.welcome.credit

    def put(self, **kind):
        self.outgoing.put(pb.ClientMessage(**kind))

    def take(self, *wanted):
        """The next message, which must be of a wanted kind; credit is noted on the way."""
        for message in self.incoming:
            kind = message.WhichOneof("kind")
            if kind == "credit":
                self.allowed = max(self.allowed, message.credit.total)
            if kind in wanted:
                return getattr(message, kind)
            expect(kind == "credit", f"{kind} in place of {wanted}: {message}")
        expect(False, f"the session ended before {wanted}")

    def put_chunk(self, chunk):
        while self.sent + len(chunk.data) > self.allowed:
            self.take("credit")
        self.put(chunk=chunk)
        self.sent += len(chunk.data)

    def image(self, data, end=True, offset=0, **fields):
        begin = begin_of(pb, data, offset=offset, **fields)
        self.put(begin=begin)
        for chunk in chunks_of(pb, begin.image_id, data, offset):
            self.put_chunk(chunk)
        if end:
            self.put(end=pb.End(image_id=begin.image_id))
        return begin.image_id

    def close(self):
        self.put(goodbye=pb.Goodbye(reason="done"))
        self.outgoing.put(None)
        return list(self.incoming)


def put(stub):
    request = pb.PutRequest(data=IMAGE, crc32c=crc32c(IMAGE), transmitter="grpcio")
    request.begin.CopyFrom(begin_of(pb, IMAGE, name="put.jpg"))
    response = stub.Put(request, timeout=TIMEOUT)
    told("grpcio Put", receipt_of(pb, response.receipt))
    again = stub.Put(request, timeout=TIMEOUT).receipt
    expect(again.status == pb.RECEIPT_STATUS_DUPLICATE, f"sent again: {again}")
    checked("grpcio Put: the same image again is a duplicate")


def upload(stub):
    text = b"this is no picture\n" * 40

    def messages():
        for data, run in ((IMAGE, TASK["run"]), (text, HOSTILE), (IMAGE, TASK["run"])):
            begin = begin_of(pb, data, name="upload.jpg", run=run)
            yield pb.ClientMessage(begin=begin)
            for chunk in chunks_of(pb, begin.image_id, data):
                yield pb.ClientMessage(chunk=chunk)
            yield pb.ClientMessage(end=pb.End(image_id=begin.image_id, digest=xxh3_of(data)))

    summary = stub.Upload(messages(), timeout=TIMEOUT)
    counts = (summary.stored, summary.duplicates, summary.rejected, summary.bytes)
    expect(counts == (2, 0, 1, 2 * len(IMAGE)), f"the summary says {counts}")
    for receipt in summary.receipts:
        told("grpcio Upload", receipt_of(pb, receipt))
    reasons = [reject.reason for reject in summary.rejects]
    expect(reasons == [pb.REJECT_REASON_NOT_AN_IMAGE], f"rejected: {summary.rejects}")
    checked("grpcio Upload: a text between two images is refused, the images are stored")


def exchange(stub):
    session = Session(stub)
    limits = session.welcome.limits
    expect(limits.max_message_bytes == TASK["max_message"], f"the limits are {limits}")
    t1 = time.time_ns()
    session.put(clock_ping=pb.ClockPing(id=7, t1_unix_ns=t1))
    check_pong(session.take("clock_pong"), 7, t1)
    checked("grpcio Exchange: the clock is answered")
    for digest in (None, xxh3_of(IMAGE)):
        fields = {"name": "exchange.jpg"}
        begin = begin_of(pb, IMAGE, **fields)
        if digest:
            begin.digest.CopyFrom(digest)
        session.put(begin=begin)
        for chunk in chunks_of(pb, begin.image_id, IMAGE):
            session.put_chunk(chunk)
        session.put(end=pb.End(image_id=begin.image_id))
        how = "grpcio Exchange, with a digest" if digest else "grpcio Exchange"
        told(how, receipt_of(pb, session.take("receipt")))
    session.close()


def resume(stub):
    session = Session(stub)
    half = len(IMAGE) // 2
    begin = begin_of(pb, IMAGE, name="resumed.jpg")
    session.put(begin=begin)
    for chunk in chunks_of(pb, begin.image_id, IMAGE[:half]):
        session.put_chunk(chunk)
    session.put(abort=pb.Abort(image_id=begin.image_id, reason="the link is about to break"))
    session.close()
    session = Session(stub, unfinished=[begin.image_id])
    held = {held.image_id: held.offset for held in session.welcome.held}
    offset = held.get(begin.image_id, 0)
    expect(offset == half, f"{half} bytes were sent, the welcome says {held}")
    session.image(IMAGE, offset=offset, image_id=begin.image_id, name="resumed.jpg")
    told("grpcio Exchange, resumed", receipt_of(pb, session.take("receipt")))
    session.close()


def watch(stub, events, subscribed):
    call = stub.Watch(pb.WatchRequest(run=TASK["run"], transport="grpc"))
    # The answer's head comes when the receiver listens for us.
    call.initial_metadata()
    subscribed.put(call)
    try:
        for event in call:
            events.put(event)
    except grpc.RpcError as error:
        expect(error.code() == grpc.StatusCode.CANCELLED, f"the watch ended with {error}")


def rejected(session, reason, text):
    """The answer to what was sent last, and that the stream goes on with a good image."""
    reject = session.take("reject")
    expect(reject.reason == reason, f"{text}: {reject}")
    expect(reject.message, f"{text}: there is no message")
    begin = begin_of(pb, IMAGE, run=HOSTILE)
    session.put(begin=begin)
    for chunk in chunks_of(pb, begin.image_id, IMAGE):
        session.put_chunk(chunk)
    session.put(end=pb.End(image_id=begin.image_id))
    receipt = session.take("receipt")
    expect(receipt.image_id == begin.image_id, f"after {text}: {receipt}")
    expect(receipt.status == pb.RECEIPT_STATUS_STORED, f"after {text}: {receipt}")
    checked(f"grpcio: {text}: {pb.RejectReason.Name(reason)}, the next image is stored")
    return reject


def hostile(stub):
    session = Session(stub)
    # A byte is flipped on the way, after its checksum was made.
    begin = begin_of(pb, IMAGE, run=HOSTILE)
    session.put(begin=begin)
    chunk = next(chunks_of(pb, begin.image_id, IMAGE))
    damaged = bytearray(chunk.data)
    damaged[1000] ^= 0x10
    chunk.data = bytes(damaged)
    session.put_chunk(chunk)
    session.put(end=pb.End(image_id=begin.image_id))
    reject = rejected(session, pb.REJECT_REASON_CHUNK_CHECKSUM, "a flipped byte in a chunk")
    expect(reject.image_id == begin.image_id and reject.retryable, f"the reject is {reject}")

    begin = begin_of(pb, IMAGE, run=HOSTILE)
    begin.digest.CopyFrom(xxh3_of(IMAGE[::-1]))
    session.put(begin=begin)
    for chunk in chunks_of(pb, begin.image_id, IMAGE):
        session.put_chunk(chunk)
    session.put(end=pb.End(image_id=begin.image_id))
    rejected(session, pb.REJECT_REASON_DIGEST_MISMATCH, "a wrong digest")

    session.image(IMAGE[: len(IMAGE) // 2], run=HOSTILE)
    reject = rejected(session, pb.REJECT_REASON_TRUNCATED_IMAGE, "a truncated JPEG")
    expect(reject.quarantined and not reject.retryable, f"the reject is {reject}")
    session.image(b"plain text\n", run=HOSTILE, name="x.png", content_type="image/png")
    rejected(session, pb.REJECT_REASON_NOT_AN_IMAGE, "a text named .png")
    session.image(b"", run=HOSTILE)
    rejected(session, pb.REJECT_REASON_EMPTY, "an empty file")
    session.image(IMAGE[:10], run=HOSTILE, size=100 << 20)
    rejected(session, pb.REJECT_REASON_TRUNCATED, "100 MiB declared, ten bytes sent")
    session.image(IMAGE[:10], end=False, run=HOSTILE, size=1 << 40)
    rejected(session, pb.REJECT_REASON_LIMIT, "1 TiB declared")
    session.put(end=pb.End(image_id=new_id()))
    rejected(session, pb.REJECT_REASON_UNKNOWN_IMAGE, "the end of an image that was not begun")
    # Field 100, as a later version may have it.
    session.outgoing.put(pb.ClientMessage.FromString(b"\xa2\x06\x02\x08\x01"))
    rejected(session, pb.REJECT_REASON_UNKNOWN_MESSAGE, "a message of an unknown kind")
    begin = begin_of(pb, IMAGE, run=HOSTILE, size=TASK["max_message"] * 2)
    session.put(begin=begin)
    big = bytes(TASK["max_message"] + (64 << 10))
    session.put(chunk=pb.Chunk(image_id=begin.image_id, data=big, crc32c=crc32c(big)))
    session.put(abort=pb.Abort(image_id=begin.image_id, reason="it was too large"))
    rejected(session, pb.REJECT_REASON_LIMIT, "a message above the limit")
    session.close()


def hostile_put(stub):
    request = pb.PutRequest(data=bytes(TASK["max_message"] + 1), transmitter="grpcio")
    request.begin.CopyFrom(begin_of(pb, request.data, run=HOSTILE))
    for change, code in (
        (None, (grpc.StatusCode.RESOURCE_EXHAUSTED,)),
        (IMAGE[:-1] + b"\0", (grpc.StatusCode.DATA_LOSS,)),
    ):
        if change:
            request.data = change
            request.crc32c = crc32c(IMAGE)
            request.begin.CopyFrom(begin_of(pb, IMAGE, run=HOSTILE))
        try:
            stub.Put(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            expect(error.code() in code, f"{error.code()} in place of {code}")
            expect(error.details(), "there is no message")
            if not change:
                expect("RECEIVER_MAX_MESSAGE_SIZE" in error.details(), error.details())
            checked(f"grpcio Put: refused with {error.code().name}")
        else:
            expect(False, f"it was accepted in place of {code}")


def main():
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(TASK["grpc"], options=options) as channel:
        stub = rpc.TransferServiceStub(channel)
        events, subscribed = queue.SimpleQueue(), queue.SimpleQueue()
        watcher = threading.Thread(target=watch, args=(stub, events, subscribed), daemon=True)
        watcher.start()
        call = subscribed.get(timeout=TIMEOUT)
        put(stub)
        upload(stub)
        exchange(stub)
        resume(stub)
        # Put, its duplicate, two of Upload, two of Exchange, and the resumed one.
        seen = [events.get(timeout=TIMEOUT) for _ in range(7)]
        call.cancel()
        kinds = {event.WhichOneof("kind") for event in seen}
        expect(kinds == {"receipt"}, f"the watch told of {kinds}")
        expect(all(event.transport == "grpc" for event in seen), f"the watch told {seen}")
        names = sorted(event.name for event in seen)
        expected = ["exchange.jpg"] * 2 + ["put.jpg"] * 2 + ["resumed.jpg"] + ["upload.jpg"] * 2
        expect(names == expected, f"the watch told of {names}")
        checked("grpcio Watch: told of every image of the run, and of no other")
        hostile(stub)
        hostile_put(stub)


main()
