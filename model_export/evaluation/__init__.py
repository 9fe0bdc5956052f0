"""The accuracy of a bundle on labeled images. Knows no torch."""
