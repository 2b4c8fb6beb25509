"""The node's web services (PS3.18), and the node as a user of those of others."""
