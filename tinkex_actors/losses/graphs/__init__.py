"""JAX losses as graphs of torch operations, which a server can run (protocol 6.8)."""
