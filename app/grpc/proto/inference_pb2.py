"""The messages of `inference.proto` as classes. Their types are in `inference_pb2.pyi`, which protoc writes."""

from google.protobuf.message_factory import GetMessageClass

from app.grpc.proto.descriptors import FILE

DESCRIPTOR = FILE
globals().update({name: GetMessageClass(message) for name, message in FILE.message_types_by_name.items()})
