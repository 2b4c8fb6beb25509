BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE association (
	id VARCHAR(32) NOT NULL, 
	receiver VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	opened_at DATETIME NOT NULL, 
	closed_at DATETIME, 
	outcome VARCHAR(64), 
	CONSTRAINT pk_association PRIMARY KEY (id)
);
INSERT INTO "association" VALUES('0123456789abcdef0123456789abcdef','n/receiver-0','MR1','NODE','10.0.0.9','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000','released');
CREATE TABLE association_study (
	association_id VARCHAR(32) NOT NULL, 
	study_id INTEGER NOT NULL, 
	CONSTRAINT pk_association_study PRIMARY KEY (association_id, study_id), 
	CONSTRAINT fk_association_study_association_id FOREIGN KEY(association_id) REFERENCES association (id), 
	CONSTRAINT fk_association_study_study_id FOREIGN KEY(study_id) REFERENCES study (id)
);
INSERT INTO "association_study" VALUES('0123456789abcdef0123456789abcdef',1);
CREATE TABLE commitment_request (
	transaction_uid VARCHAR(64) NOT NULL, 
	delivery_id INTEGER NOT NULL, 
	requested_at DATETIME NOT NULL, 
	CONSTRAINT pk_commitment_request PRIMARY KEY (transaction_uid, delivery_id), 
	CONSTRAINT fk_commitment_request_delivery_id FOREIGN KEY(delivery_id) REFERENCES delivery (id)
);
CREATE TABLE delivery (
	id INTEGER NOT NULL, 
	result_id INTEGER NOT NULL, 
	destination VARCHAR(41) NOT NULL, 
	state VARCHAR(24) NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	due_at DATETIME NOT NULL, 
	owner VARCHAR(64), 
	lease_until DATETIME, 
	sent_at DATETIME, 
	transaction_uid VARCHAR(64), 
	commitment_deadline DATETIME, 
	committed_at DATETIME, 
	error TEXT, 
	CONSTRAINT pk_delivery PRIMARY KEY (id), 
	CONSTRAINT fk_delivery_result_id FOREIGN KEY(result_id) REFERENCES result (id), 
	CONSTRAINT uq_delivery_result_id_destination UNIQUE (result_id, destination)
);
INSERT INTO "delivery" VALUES(1,1,'pacs','queued',0,'2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE event (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	correlation_id VARCHAR(32), 
	study_id INTEGER, 
	kind VARCHAR(48) NOT NULL, 
	subject VARCHAR(128) NOT NULL, 
	detail JSON NOT NULL, 
	CONSTRAINT pk_event PRIMARY KEY (id), 
	CONSTRAINT fk_event_study_id FOREIGN KEY(study_id) REFERENCES study (id)
);
INSERT INTO "event" VALUES(1,'2026-03-01 12:00:00.000000','0123456789abcdef0123456789abcdef',1,'instance received','1.2.3.1.1','{}');
INSERT INTO "event" VALUES(2,'2026-03-01 12:00:00.000000','0123456789abcdef0123456789abcdef',1,'study complete','1.2.3','{}');
CREATE TABLE instance (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	path TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	association_id VARCHAR(32) NOT NULL, 
	received_at DATETIME NOT NULL, 
	facts JSON NOT NULL, 
	study_version INTEGER, 
	removed_at DATETIME, 
	CONSTRAINT pk_instance PRIMARY KEY (id), 
	CONSTRAINT fk_instance_association_id FOREIGN KEY(association_id) REFERENCES association (id), 
	CONSTRAINT fk_instance_series_id FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_instance_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "instance" VALUES(1,1,'1.2.3.1.1','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','1111111111111111111111111111111111111111111111111111111111111111','instances/11/1111111111111111111111111111111111111111111111111111111111111111.dcm',1000,'0123456789abcdef0123456789abcdef','2026-03-01 12:00:00.000000','{}',1,NULL);
INSERT INTO "instance" VALUES(2,1,'1.2.3.1.2','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','2222222222222222222222222222222222222222222222222222222222222222','instances/22/2222222222222222222222222222222222222222222222222222222222222222.dcm',1000,'0123456789abcdef0123456789abcdef','2026-03-01 12:00:00.000000','{}',1,NULL);
CREATE TABLE job (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	study_version INTEGER NOT NULL, 
	route VARCHAR(41) NOT NULL, 
	series_instance_uids JSON NOT NULL, 
	input_digest VARCHAR(64) NOT NULL, 
	priority INTEGER NOT NULL, 
	state VARCHAR(24) NOT NULL, 
	attempts INTEGER NOT NULL, 
	maximum_attempts INTEGER NOT NULL, 
	correlation_id VARCHAR(32) NOT NULL, 
	created_at DATETIME NOT NULL, 
	due_at DATETIME NOT NULL, 
	deadline_at DATETIME NOT NULL, 
	worker VARCHAR(64), 
	lease_until DATETIME, 
	started_at DATETIME, 
	ended_at DATETIME, 
	error TEXT, 
	summary JSON, 
	CONSTRAINT pk_job PRIMARY KEY (id), 
	CONSTRAINT fk_job_study_id FOREIGN KEY(study_id) REFERENCES study (id), 
	CONSTRAINT uq_job_study_id_study_version_route UNIQUE (study_id, study_version, route)
);
INSERT INTO "job" VALUES(1,1,1,'cine','["1.2.3.1"]','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',50,'succeeded',1,3,'0123456789abcdef0123456789abcdef','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000',NULL,NULL,'2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000',NULL,NULL);
CREATE TABLE quarantine (
	id INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	path TEXT NOT NULL, 
	reason VARCHAR(200) NOT NULL, 
	sop_instance_uid VARCHAR(64), 
	association_id VARCHAR(32), 
	job_id INTEGER, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_quarantine PRIMARY KEY (id), 
	CONSTRAINT fk_quarantine_association_id FOREIGN KEY(association_id) REFERENCES association (id), 
	CONSTRAINT fk_quarantine_job_id FOREIGN KEY(job_id) REFERENCES job (id), 
	CONSTRAINT uq_quarantine_digest_reason UNIQUE (digest, reason)
);
CREATE TABLE result (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	role VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	series_description VARCHAR(64) NOT NULL, 
	path TEXT NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	size BIGINT NOT NULL, 
	removed_at DATETIME, 
	CONSTRAINT pk_result PRIMARY KEY (id), 
	CONSTRAINT fk_result_job_id FOREIGN KEY(job_id) REFERENCES job (id), 
	CONSTRAINT uq_result_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "result" VALUES(1,1,'report','1.2.840.10008.5.1.4.1.1.88.34','2.25.1','2.25.2','SR','results/aa/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.dcm','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',9,NULL);
CREATE TABLE series (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	modality VARCHAR(16) NOT NULL, 
	series_description VARCHAR(64) NOT NULL, 
	study_description VARCHAR(64) NOT NULL, 
	manufacturer VARCHAR(64) NOT NULL, 
	body_part_examined VARCHAR(16) NOT NULL, 
	CONSTRAINT pk_series PRIMARY KEY (id), 
	CONSTRAINT fk_series_study_id FOREIGN KEY(study_id) REFERENCES study (id), 
	CONSTRAINT uq_series_study_id_series_instance_uid UNIQUE (study_id, series_instance_uid)
);
INSERT INTO "series" VALUES(1,1,'1.2.3.1','MR1','MR','cine','','','');
CREATE TABLE study (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	first_received_at DATETIME NOT NULL, 
	last_received_at DATETIME NOT NULL, 
	last_association_id VARCHAR(32) NOT NULL, 
	removed_at DATETIME, 
	CONSTRAINT pk_study PRIMARY KEY (id), 
	CONSTRAINT fk_study_last_association_id FOREIGN KEY(last_association_id) REFERENCES association (id), 
	CONSTRAINT uq_study_study_instance_uid UNIQUE (study_instance_uid)
);
INSERT INTO "study" VALUES(1,'1.2.3',1,'2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000','0123456789abcdef0123456789abcdef',NULL);
CREATE INDEX ix_association_closed_at ON association (closed_at);
CREATE INDEX ix_study_last_received_at ON study (last_received_at);
CREATE INDEX ix_association_study_study_id ON association_study (study_id);
CREATE INDEX ix_event_at ON event (at);
CREATE INDEX ix_event_correlation_id ON event (correlation_id);
CREATE INDEX ix_event_study_id ON event (study_id);
CREATE INDEX ix_job_claim ON job (state, priority, created_at);
CREATE INDEX ix_job_study_id ON job (study_id);
CREATE INDEX ix_series_series_instance_uid ON series (series_instance_uid);
CREATE INDEX ix_instance_digest ON instance (digest);
CREATE INDEX ix_instance_series_id ON instance (series_id);
CREATE INDEX ix_instance_waiting ON instance (series_id) WHERE study_version IS NULL AND removed_at IS NULL;
CREATE INDEX ix_quarantine_at ON quarantine (at);
CREATE INDEX ix_result_job_id ON result (job_id);
CREATE INDEX ix_delivery_claim ON delivery (destination, state, due_at);
CREATE INDEX ix_commitment_request_delivery_id ON commitment_request (delivery_id);
COMMIT;
