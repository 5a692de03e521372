"""What the Python clients share: their task, and how they tell what came of it.

The task comes as JSON in the environment variable TASK: the addresses `grpc` and `http`, the file
`key` that tokens are signed with, and `count`, how many users all clients list. Each line of output
is a JSON object: {"users": LIST, "how": TEXT} for a list, {"checked": TEXT} for anything else that
holds. A client that finds something wrong ends with another exit code than 0.
"""

import json
import os
import pathlib
import time

import grpc
import jwt
from google.protobuf.json_format import MessageToDict

TASK = json.loads(os.environ["TASK"])
TIMEOUT = 60


def listed(how, users):
    print(json.dumps({"users": users, "how": how}), flush=True)


def checked(text):
    print(json.dumps({"checked": text}), flush=True)


def ready(text):
    """Tells whoever has started this that it may go on; not JSON, and no result."""
    print(f"ready: {text}", flush=True)


def expect(condition, text):
    if not condition:
        raise SystemExit(f"expected otherwise: {text}")


def in_json(user):
    """A user of protobuf, by the rules for JSON that come with protobuf itself."""
    return MessageToDict(
        user, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def bearer(scope, expires_in=600):
    """Metadata with a token that this server did not make."""
    key = pathlib.Path(TASK["key"]).read_bytes().strip()
    claims = {"sub": "e2e", "scope": scope, "exp": int(time.time()) + expires_in}
    return [("authorization", "Bearer " + jwt.encode(claims, key, algorithm="HS256"))]


def fails(code, words, call):
    """The error of `call`, which must have this code and these words."""
    try:
        answer = call()
    except grpc.RpcError as error:
        expect(error.code() == code, f"{error.code()} in place of {code}: {error.details()}")
        expect(words in (error.details() or ""), f"{words!r} is not in {error.details()!r}")
        return error
    expect(False, f"{code} was expected, not {answer}")
