"""What `make bench` runs. docs/benchmarks.md is written from the results."""
