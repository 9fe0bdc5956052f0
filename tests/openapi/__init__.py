"""Tests of the OpenAPI document by schemathesis, which takes seconds to import."""
