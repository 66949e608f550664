"""Who calls, and what a caller may do: certificates, tokens, rules of access, quotas; it knows no gRPC."""
