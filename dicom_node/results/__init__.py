"""Result objects: what leaves the node, encoded as DICOM, and the gate that it passes before it leaves."""
