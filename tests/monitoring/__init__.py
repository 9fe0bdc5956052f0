"""Tests of the files for Prometheus and Grafana in `docker/monitoring`."""
