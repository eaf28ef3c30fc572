"""How good features and classifiers are: neighbours, linear probes, classification reports."""
