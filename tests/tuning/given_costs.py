"""Costs that are given, and the predictor of a machine with two CPUs that has them."""

from app.settings import Settings
from app.tuning.costs import Cost, Costs, DecodeCosts, EngineCosts
from app.tuning.objective import Objective
from app.tuning.prediction import HttpCosts, Predictor

# A network that takes 8 CPU ms for an image, and slightly less in larger batches.
ONE = EngineCosts("cpu", 1, {size: Cost(0.008 * size**0.95, 0.008 * size**0.95) for size in (1, 2, 4, 8, 16)})
TWO = EngineCosts("cpu", 2, {size: Cost(0.005 * size**0.95, 0.010 * size**0.95) for size in (1, 2, 4, 8, 16)})
SMALL = {"exact": DecodeCosts(Cost(0.0001, 0.0001), 20000.0)}
PHOTOS = {
    "exact": DecodeCosts(Cost(0.020, 0.020), 100.0),
    "fast": DecodeCosts(Cost(0.005, 0.005), 400.0),
}
HTTP = HttpCosts(service=0.0004, generator=0.0001, default_workers=0)


def predictor(
    decode: dict[str, DecodeCosts] = SMALL, seconds: float = 0.1, http: HttpCosts = HTTP, **settings: object
) -> Predictor:
    """Return the predictor of a machine with two CPUs."""
    costs = Costs(2.0, {None: TWO, 1: ONE}, decode)
    return Predictor(costs, http, Objective(99, seconds), Settings.model_validate(settings))
