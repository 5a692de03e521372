//! An outbox in memory: for benchmarks and tests, and for devices that may lose what they owe.
