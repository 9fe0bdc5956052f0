"""What each request passes before its endpoint. Knows no endpoint."""
