"""grpcio through Envoy: calls without a pause, while servers come and go behind it.

As many `callers` call any of `methods` until the file `stop` is there; after each `rounds` calls there
is a line that begins with `ready: `. Any call that fails is a failure; so is a list of users in which
anybody is missing. Without methods, it is checked once that everything else is as without Envoy.
"""

import itertools
import json
import pathlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from client import TASK, TIMEOUT, checked, expect, fails, in_json, listed, ready
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from user.v1 import user_pb2 as pb
from user.v1 import user_pb2_grpc as rpc


def get_user(stub, number):
    user = stub.GetUser(pb.GetUserRequest(user_id=1 + number % 5), timeout=TIMEOUT)
    return user.user_id == 1 + number % 5


def echo(stub, number):
    text = f"{number}: " + "x" * (number % 1_000)
    return stub.Echo(pb.EchoRequest(payload=[text]), timeout=TIMEOUT).payload == [text]


def list_users(stub, number):
    users = stub.ListUsers(pb.ListUsersRequest(limit=5), timeout=TIMEOUT)
    return [user.user_id for user in users] == [1, 2, 3, 4, 5]


def create_user(stub, number):
    user = pb.CreateUserRequest(name=f"User {number}", email="user@example.com", age=20)
    return stub.CreateUser(user, timeout=TIMEOUT).name == user.name


METHODS = {
    "GetUser": get_user,
    "Echo": echo,
    "ListUsers": list_users,
    "CreateUser": create_user,
}


def once(channel):
    """What must be as without Envoy."""
    stub = rpc.UserServiceStub(channel)
    users = stub.ListUsers(pb.ListUsersRequest(limit=5), timeout=TIMEOUT)
    listed("grpcio through Envoy", [in_json(user) for user in users])
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="user.v1.UserService")
    status = health.Check(request, timeout=TIMEOUT).status
    expect(status == health_pb2.HealthCheckResponse.SERVING, f"health is {status}")
    Code = grpc.StatusCode
    wrong = pb.GetUserRequest(user_id=0)
    words = "ID must be positive"
    fails(Code.INVALID_ARGUMENT, words, lambda: stub.GetUser(wrong, timeout=TIMEOUT))
    slow = pb.EchoRequest(delay=Duration(seconds=30))
    began = time.monotonic()
    fails(Code.DEADLINE_EXCEEDED, "", lambda: stub.Echo(slow, timeout=0.3))
    took = time.monotonic() - began
    expect(took < 5, f"a deadline of 0.3 s took {took:.1f} s")
    # Longer than the 15 s that Envoy gives an answer if it is not told otherwise.
    with ThreadPoolExecutor() as pool:
        patient = pb.EchoRequest(payload=["late"], delay=Duration(seconds=16))
        late = pool.submit(stub.Echo, patient, timeout=TIMEOUT)
        following = stub.ListUsers(pb.ListUsersRequest(follow=True), timeout=TIMEOUT)
        for _ in range(5):
            next(following)
        try:
            rest = stub.ListUsers(pb.ListUsersRequest(follow=True), timeout=16)
            for _ in rest:
                pass
        except grpc.RpcError as error:
            expect(error.code() == Code.DEADLINE_EXCEEDED, f"a silent list ended with {error}")
        expect(late.result().payload == ["late"], f"an answer after 16 s is {late.result()}")
        expect(following.is_active(), "a silent list has ended by itself")
        following.cancel()
    checked("grpcio through Envoy: health, errors, deadlines, slow answers and silent streams")


def load(channel, methods, stop):
    stub = rpc.UserServiceStub(channel)
    numbers, lock = itertools.count(1), threading.Lock()
    failed, counts = [], dict.fromkeys(methods, 0)

    def caller():
        while not stop.exists() and len(failed) < 10:
            with lock:
                number = next(numbers)
                if number % TASK["rounds"] == 0:
                    ready(f"{number} calls")
            # By turns, all calls of a method could meet the same server.
            method = random.choice(methods)
            try:
                if not METHODS[method](stub, number):
                    failed.append(f"{method} {number}: a wrong answer")
            except grpc.RpcError as error:
                failed.append(f"{method} {number}: {error.code().name} {error.details()}")
            with lock:
                counts[method] += 1

    callers = [threading.Thread(target=caller) for _ in range(TASK["callers"])]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    expect(not failed, f"{len(failed)} calls failed: {json.dumps(failed)}")
    told = ", ".join(f"{count} {method}" for method, count in counts.items())
    checked(f"grpcio through Envoy, {TASK['what']}: {told}, no call failed")


with grpc.insecure_channel(TASK["grpc"]) as channel:
    if TASK["methods"]:
        load(channel, TASK["methods"], pathlib.Path(TASK["stop"]))
    else:
        once(channel)
