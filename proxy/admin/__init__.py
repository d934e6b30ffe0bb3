"""The second listener: health of this proxy, never PHI."""
