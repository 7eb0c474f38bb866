"""What is measured of a model and a machine: FLOPs, memory, decoding costs, throughput, rankings."""
