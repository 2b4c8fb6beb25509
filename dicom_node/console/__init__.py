"""The console: pages and a REST API for the people who run the node and read its results."""
