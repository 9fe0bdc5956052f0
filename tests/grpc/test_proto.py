"""Tests of the compiled definition of gRPC's messages."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from app.grpc.inference import RPCS
from app.grpc.proto.descriptors import FILE, METHODS, SERVICE_NAME

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "app/grpc/proto"
# A program that registers a message of the same name as tritonclient does.
SAME_NAMES = """
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
file = FileDescriptorProto(name="grpc_service.proto", package="inference", syntax="proto3")
file.message_type.add(name="ModelInferRequest")
descriptor_pool.Default().Add(file)
descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
import app.grpc.server
"""


def test_the_compiled_files_are_those_of_the_definition(tmp_path: Path) -> None:
    """`make proto` has been run since `inference.proto` was changed."""
    outputs = [f"--descriptor_set_out={tmp_path}/inference.binpb", f"--pyi_out={tmp_path}"]
    assert protoc.main(["protoc", f"--proto_path={PROTO}", *outputs, "inference.proto"]) == 0

    kept, compiled = (
        FileDescriptorSet.FromString((folder / "inference.binpb").read_bytes()) for folder in (PROTO, tmp_path)
    )
    assert kept == compiled
    # Before version 1.82, the types of booleans were not optional.
    types = [(folder / "inference_pb2.pyi").read_text() for folder in (PROTO, tmp_path)]
    assert len({text.replace("_Optional[bool]", "bool") for text in types}) == 1


def test_every_rpc_of_the_definition_has_an_answer() -> None:
    """The server has the RPCs of the definition, and no other."""
    assert set(RPCS) == set(METHODS)


def test_messages_of_the_same_names_can_be_in_one_process() -> None:
    """A process that has registered tritonclient's messages can import ours."""
    done = subprocess.run([sys.executable, "-c", SAME_NAMES], cwd=ROOT, check=False)  # noqa: S603 (our own interpreter)

    assert done.returncode == 0


def fields_of(message: Any) -> dict[int, tuple[object, ...]]:
    """Return name, type and oneof of each field by its number."""
    return {
        field.number: (
            field.name,
            field.type,
            field.is_repeated,
            field.message_type and field.message_type.full_name,
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in message.fields
    }


def with_nested(messages: Any) -> list[Any]:
    """Return messages and all messages within them."""
    return [each for message in messages for each in (message, *with_nested(message.nested_types))]


def test_the_definition_is_that_of_tritonclient() -> None:
    """Every field, enumeration and RPC has the name, the number and the type that tritonclient has."""
    pool = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR.pool
    service = pool.FindServiceByName(SERVICE_NAME)

    for message in with_nested(FILE.message_types_by_name.values()):
        theirs = pool.FindMessageTypeByName(message.full_name)
        assert fields_of(message).items() <= fields_of(theirs).items()
        for enum in message.enum_types:
            numbers = {value.name: value.number for value in theirs.enum_types_by_name[enum.name].values}
            assert {value.name: value.number for value in enum.values}.items() <= numbers.items()
    for name, method in METHODS.items():
        rpc = service.methods_by_name[name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            rpc.input_type.full_name,
            rpc.output_type.full_name,
        )
