"""Tests of the manifests for Kubernetes and KServe. They need no cluster."""
