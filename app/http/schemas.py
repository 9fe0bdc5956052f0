"""Request and response bodies, as OpenAPI shows them. Knows no request."""

from typing import Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema


class Prediction(BaseModel):
    """A class that the image may belong to."""

    index: int = Field(description="Number of the class, counted from 0.", examples=[7])
    label: str = Field(description="Name of the class.", examples=["seven"])
    score: float = Field(description="Confidence, from 0 to 1.", examples=[0.9987])


class Explained(Prediction):
    """A class that the image may belong to, with the evidence for it."""

    logit: float = Field(description="The value from which the score is computed.", examples=[4.25])
    bias: float = Field(description="The part of the logit that is the same for every image.", examples=[0.25])
    evidence: list[list[float]] = Field(
        description="The contribution of each position of the image to the logit, in rows from the top. The bias is "
        "spread evenly over the positions. The sum is the logit.",
        examples=[[[0.5, -0.25], [3.75, 0.25]]],
    )


class Classification(BaseModel):
    """The best classes of one image, best first. Each has evidence if the request asks for it."""

    predictions: list[Prediction] | list[Explained]
    embedding: list[float] | SkipJsonSchema[None] = Field(
        None,
        description="The vector to which the last layer of the network is applied, if the request asks for it.",
        examples=[[0.25, -1.5]],
    )


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description="A URI for the kind of problem.", examples=["about:blank"])
    title: str = Field(description="The kind of problem, in words.", examples=["The image cannot be decoded"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(
        description="The cause of the problem in this request.", examples=["The JPEG data is truncated or corrupt."]
    )
    code: str = Field(description="The kind of problem, as a stable name for programs.", examples=["unreadable_image"])
    error: str = Field(
        description="The same text as `detail`, under the name that other inference servers use.",
        examples=["The JPEG data is truncated or corrupt."],
    )


class TorchServeError(BaseModel):
    """An error in the form of TorchServe."""

    code: int = Field(description="The HTTP status.", examples=[404])
    type: str = Field(examples=["ModelNotFoundException"])
    message: str = Field(
        description="The cause of the problem in this request.",
        examples=["Request for unknown model: 'cats' is not found"],
    )


class Failure(BaseModel):
    """An image of a batch that could not be classified."""

    error: Problem


class BatchClassification(BaseModel):
    """A result or an error for each image, in the order of the request."""

    results: list[Classification | Failure]


class Health(BaseModel):
    """The state of the process: `alive` and `ready` mean success."""

    status: Literal["alive", "ready", "recovering", "draining", "broken"]
