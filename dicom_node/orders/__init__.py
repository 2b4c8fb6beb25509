"""Orders of a hospital's information system: HL7 v2 messages over MLLP, and what the routes need of them."""
