"""A toy analysis, laid out as a hospital would lay out its own; see CONTRIBUTING.md."""
