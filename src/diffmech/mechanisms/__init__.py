"""What attention heads do: entropy, features, probes, phases, clusters, labels and the complexity of the circuit."""
