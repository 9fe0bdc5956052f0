"""The bundle: the folder that the export writes and the service reads. Knows no image and no engine."""
