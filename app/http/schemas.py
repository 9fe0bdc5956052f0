"""Request and response bodies, as OpenAPI shows them."""

from typing import Literal

from pydantic import BaseModel, Field


class Prediction(BaseModel):
    """A class the image may belong to."""

    index: int = Field(description="Number of the class, counted from 0.", examples=[7])
    label: str = Field(description="Name of the class.", examples=["seven"])
    score: float = Field(description="Confidence, 0 to 1.", examples=[0.9987])


class Explained(Prediction):
    """A class the image may belong to, and what its logit is made of."""

    logit: float = Field(description="What the score is computed from.", examples=[4.25])
    bias: float = Field(description="The part of the logit that is the same for every image.", examples=[0.25])
    evidence: list[list[float]] = Field(
        description="What each place of the image contributes to the logit, in rows from the top; the bias is spread "
        "evenly over them. The sum is the logit.",
        examples=[[[0.5, -0.25], [3.75, 0.25]]],
    )


class Classification(BaseModel):
    """The best classes of one image, best first; explained if evidence was asked for."""

    predictions: list[Prediction] | list[Explained]


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="A URI for the kind of problem.", examples=["about:blank"])
    title: str = Field(description="The kind of problem, in words.", examples=["The image cannot be decoded"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(
        description="What is wrong with this request.", examples=["The JPEG data is truncated or corrupt."]
    )
    code: str = Field(description="A stable name of the kind of problem, for programs.", examples=["unreadable_image"])
    error: str = Field(
        description="The detail again, under the name that other inference servers use.",
        examples=["The JPEG data is truncated or corrupt."],
    )


class Failure(BaseModel):
    """An image of a batch that could not be classified."""

    error: Problem


class BatchClassification(BaseModel):
    """A result or an error for each image, in the order they were sent."""

    results: list[Classification | Failure]


class Health(BaseModel):
    """Whether the process lives, or whether it should be sent requests."""

    status: Literal["alive", "ready", "recovering", "draining", "broken"]
