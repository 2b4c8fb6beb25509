"""The node on the DICOM network: receiver (SCP), sender (SCU) and the small PACS of the demo."""
