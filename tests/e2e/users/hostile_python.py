"""Messages of gRPC that are made to cost much."""

import time

import grpc
from client import TASK, TIMEOUT, checked, expect, fails
from user.v1 import user_pb2 as pb
from user.v1 import user_pb2_grpc as rpc

LARGE = 100_000_000
QUICK = 5
ECHO = "/user.v1.UserService/Echo"


def quickly(what, check):
    began = time.monotonic()
    check()
    took = time.monotonic() - began
    expect(took < QUICK, f"{what} took {took:.1f} s to be refused")


def main():
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(TASK["grpc"], options=options) as channel:
        stub = rpc.UserServiceStub(channel)
        request = pb.EchoRequest(payload=["x" * LARGE])
        words = "--max-message-size"

        def large():
            fails(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                words,
                lambda: stub.Echo(request, timeout=TIMEOUT),
            )

        quickly("100 MB", large)
        checked("grpcio: 100 MB are refused, and the setting is named")

        def compressed():
            fails(
                grpc.StatusCode.UNIMPLEMENTED,
                "",
                lambda: stub.Echo(request, timeout=TIMEOUT, compression=grpc.Compression.Gzip),
            )

        quickly("100 MB in 100 KB", compressed)
        checked("grpcio: 100 MB that were packed into 100 KB are not unpacked")
        echo = channel.unary_unary(ECHO)
        for garbage in (b"\xff" * 1_000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28"):
            try:
                answer = echo(garbage, timeout=TIMEOUT)
                expect(False, f"{garbage[:10]} was answered by {answer}")
            except grpc.RpcError as error:
                kinds = (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
                expect(error.code() in kinds, f"{garbage[:10]} was answered by {error}")
        checked("grpcio: what is no message is refused")


main()
