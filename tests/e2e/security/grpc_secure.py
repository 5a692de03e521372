"""grpcio over TLS: puts one image in and prints the status, or calls Watch.

usage: grpc_secure.py ADDRESS CA CERT KEY TOKEN IMAGE TRANSMITTER; CERT, KEY and TOKEN may be empty.
"""

import pathlib
import sys
import uuid

import grpc
from pantelegraph.transfer.v1 import transfer_pb2 as pb
from pantelegraph.transfer.v1 import transfer_pb2_grpc as rpc

address, ca, cert, key, token, image, transmitter = sys.argv[1:]


def read(path):
    return pathlib.Path(path).read_bytes() if path else None


credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
metadata = [("authorization", f"Bearer {token}")] if token else []
data = read(image)
with grpc.secure_channel(address, credentials) as channel:
    stub = rpc.TransferServiceStub(channel)
    begin = pb.Begin(image_id=str(uuid.uuid4()), size=len(data), run="secure")
    request = pb.PutRequest(begin=begin, data=data, transmitter=transmitter)
    try:
        answer = stub.Put(request, metadata=metadata, timeout=20)
        print("OK", answer.receipt.image_id)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
