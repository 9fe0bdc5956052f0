"""The layers that each request passes before its endpoint. Knows no endpoint."""
