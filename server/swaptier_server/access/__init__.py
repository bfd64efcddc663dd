"""Who may call: TLS, certificates, tokens, tenants."""
