"""Convert dumps of training frameworks to traces. One file per format."""
