"""Webhooks: telling the tenants' own receivers how their jobs ended, by Standard Webhooks 1.0.0."""
