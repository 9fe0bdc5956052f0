"""The descriptors of `inference.proto`, in a pool of their own. Knows no call.

protoc could also write Python classes. They would belong to the default pool, in which tritonclient registers messages
of the same names, so that one process could not import both. And such classes refuse a protobuf runtime of another
major version, while descriptors have no version.
"""

from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

FILE_NAME, SERVICE_NAME = "inference.proto", "inference.GRPCInferenceService"

POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString((files(__package__) / "inference.binpb").read_bytes()).file:
    POOL.Add(_file)

FILE = POOL.FindFileByName(FILE_NAME)
# The methods of the service by name. Each has an input type and an output type.
METHODS = POOL.FindServiceByName(SERVICE_NAME).methods_by_name
