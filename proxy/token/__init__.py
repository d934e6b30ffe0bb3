"""The one bearer token that all callers share: fetched, cached, refreshed ahead, replaced when rejected."""
