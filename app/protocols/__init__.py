"""Translations between the messages of inference protocols and the classifier. Knows neither HTTP nor gRPC."""
