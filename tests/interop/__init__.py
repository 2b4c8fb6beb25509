"""Real peers of the node: dcmtk as the scanner, Orthanc as the PACS, dciodvfy and dcmqi as the judges."""
