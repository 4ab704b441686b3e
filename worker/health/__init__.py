"""The record that each process keeps of its own health: gauges in; snapshot rows, and text for Prometheus, out.

Reads the pool facade and the ledger's tally; writes over a connection of its own.
"""
