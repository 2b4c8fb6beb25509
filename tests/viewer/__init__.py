"""The radiologist's view: OHIF on Orthanc, in headless Chromium."""
