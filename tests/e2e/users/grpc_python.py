"""grpcio, with code that grpcio-tools made from proto/: all calls, all statuses, and the limits."""

import queue
import threading
import time

import grpc
from client import TASK, TIMEOUT, bearer, checked, expect, fails, in_json, listed
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from user.v1 import user_pb2 as pb
from user.v1 import user_pb2_grpc as rpc

Code = grpc.StatusCode
MANY = 1_000


def new_user(i, **fields):
    fields = {"name": f"User {i}", "email": f"user{i}@example.com", "age": i % 150} | fields
    return pb.CreateUserRequest(**fields)


def details_of(error, kind):
    status = rpc_status.from_call(error)
    expect(status and len(status.details) == 1, f"the details are {status}")
    details = kind()
    expect(status.details[0].Unpack(details), f"the details are {status}")
    return details


def calls(stub):
    users = stub.ListUsers(pb.ListUsersRequest(limit=TASK["count"]), timeout=TIMEOUT)
    users = [in_json(user) for user in users]
    listed("grpcio ListUsers", users)
    one_by_one = [
        in_json(stub.GetUser(pb.GetUserRequest(user_id=user["user_id"]), timeout=TIMEOUT))
        for user in users
    ]
    listed("grpcio GetUser, one by one", one_by_one)
    created = stub.CreateUser(new_user(1, roles=["user", "editor"]), timeout=TIMEOUT)
    again = stub.GetUser(pb.GetUserRequest(user_id=created.user_id), timeout=TIMEOUT)
    expect(created == again and created.roles == ["user", "editor"], f"{created} is not {again}")
    expect(created.created_at.nanos % 1_000_000 == 0, f"{created.created_at} has microseconds")
    echo = stub.Echo(pb.EchoRequest(payload=["ä", "", "b"]), timeout=TIMEOUT)
    expect(echo.payload == ["ä", "", "b"], f"the echo is {echo}")
    checked("grpcio: CreateUser and Echo")


def many(stub):
    wanted = [new_user(i) for i in range(MANY)]
    answer = stub.BatchCreateUsers(iter(wanted), timeout=TIMEOUT)
    ids = list(answer.user_ids)
    expect(answer.users_created == MANY == len(ids), f"{answer.users_created} were created")
    expect(ids == list(range(ids[0], ids[0] + MANY)), "the ids are not in the order of the users")
    request = pb.ListUsersRequest(after_user_id=ids[0] - 1, limit=MANY)
    got = list(stub.ListUsers(request, timeout=TIMEOUT))
    expect([user.user_id for user in got] == ids, f"{len(got)} users were listed")
    same = all(
        (user.name, user.email, user.age) == (new.name, new.email, new.age)
        for user, new in zip(got, wanted)
    )
    expect(same, "other users were listed than those that were created")
    bad = [new_user(0), new_user(1, email="nobody"), new_user(2)]
    error = fails(
        Code.INVALID_ARGUMENT,
        "users[1]: email must be an address",
        lambda: stub.BatchCreateUsers(iter(bad), timeout=TIMEOUT),
    )
    fields = details_of(error, error_details_pb2.BadRequest).field_violations
    expect([field.field for field in fields] == ["users[1].email"], f"{fields}")
    after = list(stub.ListUsers(pb.ListUsersRequest(after_user_id=ids[-1]), timeout=TIMEOUT))
    expect(not after, f"of a batch that was refused {after} were created")
    checked(f"grpcio: {MANY} users streamed in by BatchCreateUsers and out by ListUsers")


def ping_pong(stub):
    outgoing = queue.SimpleQueue()
    answers = stub.StreamUsers(iter(outgoing.get, None), timeout=TIMEOUT)
    for i in range(1, 101):
        # Each is answered before the next is sent.
        age = 200 if i % 10 == 0 else 20
        outgoing.put(pb.StreamUsersRequest(user=new_user(i, age=age)))
        answer = next(answers)
        expect(answer.sequence == i, f"answer {answer.sequence} to message {i}")
        kind = answer.WhichOneof("result")
        if age == 20:
            expect(kind == "created" and answer.created.name == f"User {i}", f"{answer}")
        else:
            refused = answer.refused
            expect(kind == "refused" and refused.code == 3, f"{answer}")
            expect([field.field for field in refused.violations] == ["age"], f"{answer}")
    outgoing.put(None)
    expect(list(answers) == [], "more answers than messages")
    checked("grpcio StreamUsers: each message is answered before the next, refused ones too")

    outgoing = queue.SimpleQueue()
    answers = stub.StreamUsers(iter(outgoing.get, None), timeout=TIMEOUT)
    arrived = queue.SimpleQueue()
    threading.Thread(target=lambda: [arrived.put(answer) for answer in answers]).start()
    for i in range(1, 101):
        mode = pb.ANSWER_MODE_AFTER_ALL if i == 1 else pb.ANSWER_MODE_UNSPECIFIED
        outgoing.put(pb.StreamUsersRequest(user=new_user(i), answer_mode=mode))
    try:
        answer = arrived.get(timeout=0.5)
        expect(False, f"answered before the last message: {answer}")
    except queue.Empty:
        outgoing.put(None)
    got = [arrived.get(timeout=TIMEOUT).sequence for _ in range(100)]
    expect(got == list(range(1, 101)), f"the answers are {got}")
    checked("grpcio StreamUsers: all answers after the last message")


def follow(stub):
    newest = stub.CreateUser(new_user(0), timeout=TIMEOUT).user_id
    request = pb.ListUsersRequest(after_user_id=newest - 1, follow=True)
    following = stub.ListUsers(request, timeout=TIMEOUT)
    expect(next(following).user_id == newest, "a list that follows begins with who is there")
    created = stub.CreateUser(new_user(1), timeout=TIMEOUT)
    live = next(following)
    expect(live == created, f"{live} in place of {created}")
    following.cancel()
    fails(Code.CANCELLED, "", lambda: next(following))
    checked("grpcio ListUsers: sees a user who was created afterwards; CANCELLED when cancelled")


def chat(stub):
    texts = [f"text {i}" for i in range(100)]
    heard, clients = [], []
    for name in ("anna", "ben"):
        outgoing = queue.SimpleQueue()
        call = stub.Chat(iter(outgoing.get, None), timeout=TIMEOUT)
        call.initial_metadata()
        clients.append((name, outgoing, call))
    for text in texts:
        for name, outgoing, _ in clients:
            outgoing.put(pb.ChatMessage(user=name, text=text))
    for _, outgoing, call in clients:
        heard.append([next(call) for _ in range(2 * len(texts))])
        outgoing.put(None)
        call.cancel()
    expect(heard[0] == heard[1], "two clients heard different messages")
    for name, _, _ in clients:
        said = [message.text for message in heard[0] if message.user == name]
        expect(said == texts, f"{name} said {len(said)} texts")
    numbers = [message.sequence for message in heard[0]]
    expect(numbers == list(range(numbers[0], numbers[0] + len(numbers))), "messages are missing")
    checked("grpcio Chat: two clients hear all messages once, in one order")


def statuses(stub):
    def get(user_id):
        return lambda: stub.GetUser(pb.GetUserRequest(user_id=user_id), timeout=TIMEOUT)

    expect(get(1)().name == "Alice Johnson", "the first user is not Alice Johnson")
    checked("grpcio: OK")
    for user_id in (0, -1, -(2**31)):
        error = fails(Code.INVALID_ARGUMENT, "ID must be positive", get(user_id))
        fields = details_of(error, error_details_pb2.BadRequest).field_violations
        expect([field.field for field in fields] == ["user_id"], f"the fields are {fields}")
    bad = new_user(1, name="", email="nobody", age=-1, roles=["No"])
    error = fails(Code.INVALID_ARGUMENT, "", lambda: stub.CreateUser(bad, timeout=TIMEOUT))
    fields = details_of(error, error_details_pb2.BadRequest).field_violations
    names = [field.field for field in fields]
    expect(names == ["name", "email", "age", "roles[0]"], f"the fields are {names}")
    checked("grpcio: INVALID_ARGUMENT, with every wrong field in google.rpc.BadRequest")
    error = fails(Code.NOT_FOUND, "User 99 not found", get(99))
    resource = details_of(error, error_details_pb2.ResourceInfo)
    expect(resource.resource_name == "users/99", f"the resource is {resource}")
    checked("grpcio: NOT_FOUND, with google.rpc.ResourceInfo")

    def admin(metadata=None):
        user = new_user(1, roles=["admin"])
        return lambda: stub.CreateUser(user, timeout=TIMEOUT, metadata=metadata)

    for words, metadata in (
        ("Missing token", None),
        ("Token expired", bearer("admin", expires_in=-1)),
        ("Token cannot be read", [("authorization", "Bearer x.y.z")]),
        ("Token signature is wrong", [("authorization", bearer("admin")[0][1][:-8] + "AAAAAAAA")]),
    ):
        fails(Code.UNAUTHENTICATED, words, admin(metadata))
    checked("grpcio: UNAUTHENTICATED, without a token and with an expired one of PyJWT")
    fails(Code.PERMISSION_DENIED, "scope admin", admin(bearer("read upload")))
    expect(admin(bearer("read admin"))().roles == ["admin"], "with the scope it was refused")
    checked("grpcio: PERMISSION_DENIED without the scope, OK with it")
    for code in Code:
        number, _ = code.value
        if number:
            request = pb.EchoRequest(code=number)
            fails(code, "", lambda: stub.Echo(request, timeout=TIMEOUT))
    checked("grpcio: CANCELLED, UNAVAILABLE, INTERNAL and every other code by Echo")
    request = pb.EchoRequest(delay=Duration(seconds=30))
    began = time.monotonic()
    fails(Code.DEADLINE_EXCEEDED, "", lambda: stub.Echo(request, timeout=0.3))
    took = time.monotonic() - began
    expect(took < 5, f"a deadline of 0.3 s took {took:.1f} s")
    checked("grpcio: DEADLINE_EXCEEDED")


def large(stub):
    half = "x" * (2 << 20)
    words = "--max-message-size"
    request = pb.EchoRequest(payload=[half, half, half])
    fails(Code.RESOURCE_EXHAUSTED, words, lambda: stub.Echo(request, timeout=TIMEOUT))
    user = new_user(1, name=half * 3)
    answers = stub.StreamUsers(iter([pb.StreamUsersRequest(user=user)]), timeout=TIMEOUT)
    fails(Code.RESOURCE_EXHAUSTED, words, lambda: next(answers))
    fails(
        Code.RESOURCE_EXHAUSTED,
        words,
        lambda: stub.BatchCreateUsers(iter([user]), timeout=TIMEOUT),
    )
    almost = pb.EchoRequest(payload=[half, half[: -(64 << 10)]])
    echo = stub.Echo(almost, timeout=TIMEOUT)
    expect(len(echo.payload[0]) == len(half), "a message just below the limit was changed")
    checked("grpcio: a message above 4 MiB is refused, and the setting is named")


def health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "user.v1.UserService"):
        request = health_pb2.HealthCheckRequest(service=service)
        answer = stub.Check(request, timeout=TIMEOUT)
        expect(answer.status == serving, f"{service!r} is {answer}")
        watch = stub.Watch(request, timeout=TIMEOUT)
        expect(next(watch).status == serving, f"{service!r} is watched as something else")
        watch.cancel()
    request = health_pb2.HealthCheckRequest(service="no.such.Service")
    fails(Code.NOT_FOUND, "", lambda: stub.Check(request, timeout=TIMEOUT))
    checked("grpcio: health is SERVING, as a whole and for the service")


def pings(failed):
    """A client that pings each second, with a call and without."""
    options = [
        ("grpc.keepalive_time_ms", 1_000),
        ("grpc.keepalive_timeout_ms", 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    try:
        with grpc.insecure_channel(TASK["grpc"], options=options) as channel:
            states = []
            channel.subscribe(states.append)
            stub = rpc.UserServiceStub(channel)
            for delay in (0, 5):
                request = pb.EchoRequest(payload=["x"], delay=Duration(seconds=delay))
                stub.Echo(request, timeout=TIMEOUT)
            time.sleep(5)
            stub.Echo(pb.EchoRequest(payload=["y"]), timeout=TIMEOUT)
            lost = [grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.IDLE]
            seen = states[states.index(grpc.ChannelConnectivity.READY) :]
            if any(state in lost for state in seen):
                failed.append(f"the connection went through {seen}")
    except Exception as error:
        failed.append(repr(error))


def main():
    failed = []
    pinger = threading.Thread(target=pings, args=(failed,))
    pinger.start()
    with grpc.insecure_channel(TASK["grpc"]) as channel:
        stub = rpc.UserServiceStub(channel)
        calls(stub)
        statuses(stub)
        many(stub)
        ping_pong(stub)
        follow(stub)
        chat(stub)
        large(stub)
        health(channel)
    pinger.join()
    expect(not failed, f"keepalive: {failed}")
    checked("grpcio: a ping each second for ten seconds is tolerated")


main()
