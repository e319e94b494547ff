"""The embedded default: small pools that ship with the package."""
