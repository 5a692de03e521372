"""What clients see while a server stops: health first, then the calls that wait for news, then all.

Prints a line that begins with `ready: ` when the server is to be stopped. The server must serve on
for at least two seconds after it has said NOT_SERVING.
"""

import time
import urllib.error
import urllib.request

import grpc
from client import TASK, TIMEOUT, checked, expect, fails, ready
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from user.v1 import user_pb2 as pb
from user.v1 import user_pb2_grpc as rpc

Health = health_pb2.HealthCheckResponse
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SERVICE = health_pb2.HealthCheckRequest(service="user.v1.UserService")
# Longer than the server serves on, shorter than it waits for calls in flight.
LONG = 4


def new_connection(call):
    """Grpcio shares connections between channels of the same options."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(TASK["grpc"], options=options) as channel:
        return call(channel)


def get_user(channel):
    request = pb.GetUserRequest(user_id=1)
    return rpc.UserServiceStub(channel).GetUser(request, timeout=TIMEOUT)


def http_health():
    try:
        with urllib.request.urlopen(f"http://{TASK['http']}/healthz", timeout=TIMEOUT) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def main():
    with grpc.insecure_channel(TASK["grpc"]) as channel:
        stub = rpc.UserServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(SERVICE, timeout=TIMEOUT)
        expect(next(watch).status == Health.SERVING, "health is not SERVING at first")
        expect(http_health() == 200, "/healthz is not 200 at first")
        following = stub.ListUsers(pb.ListUsersRequest(follow=True), timeout=TIMEOUT)
        expect(next(following).user_id == 1, "the list does not begin with the first user")
        chatting = stub.Chat(iter([]), timeout=TIMEOUT)
        chatting.initial_metadata()
        request = pb.EchoRequest(payload=["in flight"], delay=Duration(seconds=LONG))
        in_flight = stub.Echo.future(request, timeout=TIMEOUT)
        ready("stop the server")

        expect(next(watch).status == Health.NOT_SERVING, "health does not change")
        began = time.monotonic()
        check = new_connection(
            lambda new: health_pb2_grpc.HealthStub(new).Check(SERVICE, timeout=TIMEOUT)
        )
        expect(check.status == Health.NOT_SERVING, f"the check says {check}")
        expect(new_connection(get_user).user_id == 1, "no new connection is served any more")
        status = http_health()
        expect(status == 503, f"/healthz says {status}")
        checked("grpcio: NOT_SERVING is seen while new connections are still served")

        def rest_of(call):
            return lambda: [None for _ in call]

        fails(UNAVAILABLE, "stopping", rest_of(following))
        took = time.monotonic() - began
        expect(took > 1.5, f"new connections were served for {took:.1f} s only")
        fails(UNAVAILABLE, "stopping", rest_of(chatting))
        checked("grpcio: a list that follows and a chat end with UNAVAILABLE")
        fails(UNAVAILABLE, "", lambda: new_connection(get_user))
        expect(not in_flight.done(), "the call in flight ended before its time")
        checked("grpcio: UNAVAILABLE for new connections, while a call is in flight")
        echo = in_flight.result(timeout=TIMEOUT)
        expect(echo.payload == ["in flight"], f"the call in flight was answered by {echo}")
        checked("grpcio: the call in flight was answered")
        fails(UNAVAILABLE, "", lambda: get_user(channel))


main()
