"""swin-serve beside other servers that do the same job, under the same load."""
