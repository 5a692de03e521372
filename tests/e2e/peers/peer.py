"""What the Python peers share: their task, and how they tell what came of it.

The task comes as JSON in the environment variable PEER: the addresses `grpc` and `http`, the file
`image`, the label `run`, and `max_message`, the receiver's limit in bytes. Each line of output is
a JSON object: {"told": RECEIPT, "how": TEXT} for an image that was delivered, {"checked": TEXT} for
anything else that holds. A peer that finds something wrong ends with another exit code than 0.
"""

import json
import os
import pathlib
import time
import uuid

import google_crc32c
import xxhash

TASK = json.loads(os.environ["PEER"])
IMAGE = pathlib.Path(TASK["image"]).read_bytes()
CHUNK = 256 << 10


def xxh3(data):
    """Canonical, that is big-endian: made by a library that the receiver does not use."""
    return xxhash.xxh3_128_digest(data)


def crc32c(data):
    return google_crc32c.value(data)


def new_id():
    return str(uuid.uuid4())


def told(how, receipt):
    expected = f"xxh3-128:{xxh3(IMAGE).hex()}"
    expect(receipt["digest"] == expected, f"digest {receipt['digest']} is not {expected}")
    print(json.dumps({"told": receipt, "how": how}), flush=True)


def checked(text):
    print(json.dumps({"checked": text}), flush=True)


def expect(condition, text):
    if not condition:
        raise SystemExit(f"expected otherwise: {text}")


def receipt_of(pb, receipt):
    """A protobuf Receipt in the form that the receiver gives out as JSON."""
    algorithms = {pb.DIGEST_ALGORITHM_XXH3_128: "xxh3-128", pb.DIGEST_ALGORITHM_BLAKE3: "blake3"}
    algorithm = algorithms[receipt.digest.algorithm]
    timeline = receipt.timeline
    return {
        "image_id": receipt.image_id,
        "status": pb.ReceiptStatus.Name(receipt.status).removeprefix("RECEIPT_STATUS_").lower(),
        "size": receipt.size,
        "digest": f"{algorithm}:{receipt.digest.value.hex()}",
        "durability": pb.Durability.Name(receipt.durability).removeprefix("DURABILITY_").lower(),
        "format": receipt.format,
        "width": receipt.width,
        "height": receipt.height,
        "timeline": {
            "first_byte": timeline.first_byte_unix_ns,
            "last_byte": timeline.last_byte_unix_ns,
            "verified": timeline.verified_unix_ns,
            "durable": timeline.durable_unix_ns,
        },
        "receiver": receipt.receiver,
    }


def check_pong(pong, number, t1):
    """The four timestamps of one clock measurement, on one clock, are in order."""
    expect((pong.id, pong.t1_unix_ns) == (number, t1), f"the pong is not that of the ping: {pong}")
    order = [t1, pong.t2_unix_ns, pong.t3_unix_ns, time.time_ns()]
    expect(order == sorted(order), f"timestamps out of order: {order}")


def begin_of(pb, data, **fields):
    begin = pb.Begin(image_id=new_id(), size=len(data), run=TASK["run"], attempt=1, sequence=1)
    begin.content_type = "image/jpeg"
    begin.send_started_unix_ns = time.time_ns()
    for name, value in fields.items():
        setattr(begin, name, value)
    return begin


def chunks_of(pb, image_id, data, offset=0):
    for at in range(offset, len(data), CHUNK):
        piece = data[at : at + CHUNK]
        yield pb.Chunk(image_id=image_id, offset=at, data=piece, crc32c=crc32c(piece))
