"""The life of a key: every call that changes, tries or describes a cluster."""
