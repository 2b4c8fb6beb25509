"""One module a command of ``dicom-node``; ``dicom_node.cli`` puts them together."""
