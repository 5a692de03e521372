"""grpcio-reflection: a client that has no contract but the one that the server tells."""

import grpc
from client import TASK, TIMEOUT, checked, expect, fails, in_json, listed
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2 as reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICES = {"grpc.health.v1.Health", "user.v1.UserService"}


def caller(channel, method):
    """The method as a function, made from its description alone."""
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    request = GetMessageClass(method.input_type)
    call = kinds[method.client_streaming, method.server_streaming](
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return request, call


def by_database(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    expect(SERVICES <= services, f"the services are {services}")
    service = DescriptorPool(database).FindServiceByName("user.v1.UserService")
    names = {method.name for method in service.methods}
    wanted = {"GetUser", "CreateUser", "ListUsers", "BatchCreateUsers", "StreamUsers", "Chat", "Echo"}
    expect(names == wanted, f"the methods are {names}")
    methods = service.methods_by_name
    request, list_users = caller(channel, methods["ListUsers"])
    users = list_users(request(limit=TASK["count"]), timeout=TIMEOUT)
    listed("grpcio-reflection ListUsers", [in_json(user) for user in users])
    request, get_user = caller(channel, methods["GetUser"])
    wrong = request(user_id=0)
    words = "ID must be positive"
    fails(grpc.StatusCode.INVALID_ARGUMENT, words, lambda: get_user(wrong, timeout=TIMEOUT))
    checked("grpcio-reflection: v1alpha describes all services, and calls work by it")


def by_hand(channel):
    """v1, whose messages are those of v1alpha under another name."""
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection.ServerReflectionRequest(list_services=""),
        reflection.ServerReflectionRequest(file_containing_symbol="user.v1.UserService"),
    ]
    services, file = ask(iter(requests), timeout=TIMEOUT)
    names = {service.name for service in services.list_services_response.service}
    expect(SERVICES <= names, f"the services are {names}")
    encoded = file.file_descriptor_response.file_descriptor_proto
    files = [descriptor_pb2.FileDescriptorProto.FromString(one).name for one in encoded]
    expect("user/v1/user.proto" in files, f"the files are {files}")
    # The protocol has an answer for it; ending the call with the same code is tonic's way.
    missing = reflection.ServerReflectionRequest(file_containing_symbol="no.such.Service")
    try:
        code = next(ask(iter([missing]), timeout=TIMEOUT)).error_response.error_code
    except grpc.RpcError as error:
        code, _ = error.code().value
    expect(code == 5, f"an unknown name is answered by {code}")
    checked("grpcio-reflection: v1 says the same")


with grpc.insecure_channel(TASK["grpc"]) as channel:
    by_database(channel)
    by_hand(channel)
