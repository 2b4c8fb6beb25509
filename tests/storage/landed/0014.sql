BEGIN TRANSACTION;
CREATE TABLE "account" (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	role VARCHAR(24) NOT NULL, 
	password_hash VARCHAR(200) NOT NULL, 
	created_at DATETIME NOT NULL, 
	disabled_at DATETIME, 
	provider_subject VARCHAR(64), 
	CONSTRAINT pk_account PRIMARY KEY (id), 
	CONSTRAINT uq_account_name UNIQUE (name), 
	CONSTRAINT uq_account_provider_subject UNIQUE (provider_subject)
);
INSERT INTO "account" VALUES(1,'ann','administrator','$argon2id$made-up','2026-03-01 12:00:00.000000',NULL,NULL);
INSERT INTO "account" VALUES(2,'bob','viewer','','2026-03-01 12:00:00.000000',NULL,'abababababababababababababababababababababababababababababababab');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0014');
CREATE TABLE api_token (
	name VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	role VARCHAR(24) NOT NULL, 
	"by" VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_api_token PRIMARY KEY (name), 
	CONSTRAINT uq_api_token_digest UNIQUE (digest)
);
CREATE TABLE assessment (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	study_version INTEGER NOT NULL, 
	route VARCHAR(41) NOT NULL, 
	package VARCHAR(41) NOT NULL, 
	result VARCHAR(24) NOT NULL, 
	comment VARCHAR(500) NOT NULL, 
	"by" VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_assessment PRIMARY KEY (id)
);
INSERT INTO "assessment" VALUES(1,'1.2.3',1,'cine','ventricular_function','accepted','','ann','2026-03-01 12:00:00.000000');
CREATE TABLE association (
	id VARCHAR(32) NOT NULL, 
	receiver VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	opened_at DATETIME NOT NULL, 
	closed_at DATETIME, 
	outcome VARCHAR(64), audited_at DATETIME, 
	CONSTRAINT pk_association PRIMARY KEY (id)
);
INSERT INTO "association" VALUES('0123456789abcdef0123456789abcdef','n/receiver-0','MR1','NODE','10.0.0.9','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000','released',NULL);
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
CREATE TABLE commitment_transaction (
	id INTEGER NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	transaction_uid VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	referenced JSON NOT NULL, 
	correlation_id VARCHAR(32), 
	requested_at DATETIME NOT NULL, 
	state VARCHAR(24) NOT NULL, 
	attempts INTEGER NOT NULL, 
	due_at DATETIME NOT NULL, 
	reported_at DATETIME, 
	error TEXT, 
	CONSTRAINT pk_commitment_transaction PRIMARY KEY (id), 
	CONSTRAINT uq_commitment_transaction UNIQUE (calling_ae_title, transaction_uid, digest)
);
CREATE TABLE console_session (
	digest VARCHAR(64) NOT NULL, 
	account_id INTEGER NOT NULL, 
	csrf VARCHAR(64) NOT NULL, 
	began_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, 
	notice TEXT, 
	CONSTRAINT pk_console_session PRIMARY KEY (digest), 
	CONSTRAINT fk_console_session_account_id FOREIGN KEY(account_id) REFERENCES account (id)
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
	error TEXT, put_off INTEGER DEFAULT '0' NOT NULL, ended_at DATETIME, 
	CONSTRAINT pk_delivery PRIMARY KEY (id), 
	CONSTRAINT fk_delivery_result_id FOREIGN KEY(result_id) REFERENCES result (id), 
	CONSTRAINT uq_delivery_result_id_destination UNIQUE (result_id, destination)
);
INSERT INTO "delivery" VALUES(1,1,'pacs','queued',0,'2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
CREATE TABLE destination_trial (
	destination VARCHAR(41) NOT NULL, 
	transaction_uid VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	"by" VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, 
	findings JSON NOT NULL, 
	reported_at DATETIME, 
	report TEXT NOT NULL, 
	CONSTRAINT pk_destination_trial PRIMARY KEY (destination), 
	CONSTRAINT uq_destination_trial_transaction_uid UNIQUE (transaction_uid)
);
INSERT INTO "destination_trial" VALUES('pacs','2.25.7','2.25.8','ann','2026-03-01 12:00:00.000000','{"association": "accepted"}','2026-03-01 12:00:00.000000','committed');
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
INSERT INTO "event" VALUES(2,'2026-03-01 12:00:00.000000','0123456789abcdef0123456789abcdef',1,'study complete','1.2.3','{}');
CREATE TABLE host (
	name VARCHAR(40) NOT NULL, 
	beat BIGINT NOT NULL, 
	at DATETIME NOT NULL, processes JSON, free_mb DOUBLE, 
	CONSTRAINT pk_host PRIMARY KEY (name)
);
INSERT INTO "host" VALUES('ward-a',7,'2026-03-01 12:00:00.000000','[{"name": "receiver-0", "pid": 7, "ready": true, "failed_starts": 0, "last_death": null, "changed_at": "2026-03-01T12:00:00"}]',2048.5);
CREATE TABLE imaging_order (
	id INTEGER NOT NULL, 
	accession_number VARCHAR(64) NOT NULL, 
	order_number VARCHAR(200) NOT NULL, 
	procedures JSON NOT NULL, 
	reasons JSON NOT NULL, 
	diagnoses JSON NOT NULL, 
	received_at DATETIME NOT NULL, 
	considered_at DATETIME, 
	CONSTRAINT pk_imaging_order PRIMARY KEY (id), 
	CONSTRAINT uq_imaging_order_accession_number_order_number UNIQUE (accession_number, order_number)
);
INSERT INTO "imaging_order" VALUES(1,'A1','P1','["MRHEART"]','["STEMI"]','["I21.0","made up"]','2026-03-01 12:00:00.000000',NULL);
INSERT INTO "imaging_order" VALUES(2,'A1','P2','[]','[]','[]','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000');
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
	removed_at DATETIME, held_by VARCHAR(40), 
	CONSTRAINT pk_instance PRIMARY KEY (id), 
	CONSTRAINT fk_instance_association_id FOREIGN KEY(association_id) REFERENCES association (id), 
	CONSTRAINT fk_instance_series_id FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_instance_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "instance" VALUES(1,1,'1.2.3.1.1','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','1111111111111111111111111111111111111111111111111111111111111111','instances/11/1111111111111111111111111111111111111111111111111111111111111111.dcm',1000,'0123456789abcdef0123456789abcdef','2026-03-01 12:00:00.000000','{}',1,NULL,NULL);
INSERT INTO "instance" VALUES(2,1,'1.2.3.1.2','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','2222222222222222222222222222222222222222222222222222222222222222','instances/22/2222222222222222222222222222222222222222222222222222222222222222.dcm',1000,'0123456789abcdef0123456789abcdef','2026-03-01 12:00:00.000000','{}',1,NULL,'ward-a');
CREATE TABLE invitation (
	digest VARCHAR(64) NOT NULL, 
	name VARCHAR(64), 
	role VARCHAR(24) NOT NULL, 
	"by" VARCHAR(64) NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_invitation PRIMARY KEY (digest)
);
CREATE TABLE "job" (
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
	started_at DATETIME, 
	ended_at DATETIME, 
	error TEXT, 
	summary JSON, 
	package VARCHAR(41) DEFAULT 'ventricular_function' NOT NULL, 
	revision INTEGER DEFAULT '0' NOT NULL, 
	identity VARCHAR(64) DEFAULT '' NOT NULL, 
	slot VARCHAR(24) DEFAULT 'cpu' NOT NULL, 
	background BOOLEAN DEFAULT 0 NOT NULL, 
	timeout_s DOUBLE DEFAULT '300' NOT NULL, 
	lease VARCHAR(32), 
	heartbeat INTEGER DEFAULT '0' NOT NULL, 
	inputs_removed_at DATETIME, 
	verdict VARCHAR(24), 
	sentences JSON DEFAULT '[]' NOT NULL, 
	key_numbers JSON DEFAULT '[]' NOT NULL, step VARCHAR(64), 
	CONSTRAINT pk_job PRIMARY KEY (id), 
	CONSTRAINT fk_job_study_id FOREIGN KEY(study_id) REFERENCES study (id), 
	CONSTRAINT uq_job_study_id_study_version_route_package_revision UNIQUE (study_id, study_version, route, package, revision)
);
INSERT INTO "job" VALUES(1,1,1,'cine','["1.2.3.1"]','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',50,'succeeded',1,3,'0123456789abcdef0123456789abcdef','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000',NULL,'2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000',NULL,NULL,'ventricular_function',0,'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','cpu',0,300.0,NULL,0,NULL,'delivered','[]','[]','cine_segmentation');
CREATE TABLE ledger_identity (
	id INTEGER NOT NULL, 
	identity VARCHAR(32) NOT NULL, 
	bound_at DATETIME NOT NULL, 
	CONSTRAINT pk_ledger_identity PRIMARY KEY (id)
);
CREATE TABLE log_in_failure (
	id INTEGER NOT NULL, 
	name_digest VARCHAR(64) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_log_in_failure PRIMARY KEY (id)
);
CREATE TABLE order_message (
	digest VARCHAR(64) NOT NULL, 
	received_at DATETIME NOT NULL, 
	CONSTRAINT pk_order_message PRIMARY KEY (digest)
);
INSERT INTO "order_message" VALUES('cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','2026-03-01 12:00:00.000000');
CREATE TABLE outage (
	destination VARCHAR(41) NOT NULL, 
	since DATETIME NOT NULL, 
	attempts INTEGER NOT NULL, 
	retry_at DATETIME NOT NULL, 
	error TEXT NOT NULL, 
	CONSTRAINT pk_outage PRIMARY KEY (destination)
);
CREATE TABLE paused_destination (
	destination VARCHAR(41) NOT NULL, 
	since DATETIME NOT NULL, 
	"by" VARCHAR(64) NOT NULL, 
	reason VARCHAR(200) NOT NULL, 
	CONSTRAINT pk_paused_destination PRIMARY KEY (destination)
);
INSERT INTO "paused_destination" VALUES('pacs','2026-03-01 12:00:00.000000','ann','made up');
CREATE TABLE performed_step (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	state VARCHAR(24) NOT NULL, 
	made JSON NOT NULL, 
	end_given BOOLEAN NOT NULL, 
	changed_at DATETIME NOT NULL, 
	CONSTRAINT pk_performed_step PRIMARY KEY (id), 
	CONSTRAINT uq_performed_step_sop_instance_uid UNIQUE (sop_instance_uid)
);
CREATE TABLE performed_step_study (
	step_id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_performed_step_study PRIMARY KEY (step_id, study_instance_uid), 
	CONSTRAINT fk_performed_step_study_step_id FOREIGN KEY(step_id) REFERENCES performed_step (id)
);
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
CREATE TABLE released_file (
	path VARCHAR(255) NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_released_file PRIMARY KEY (path)
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
	removed_at DATETIME, rejected_at DATETIME, 
	CONSTRAINT pk_result PRIMARY KEY (id), 
	CONSTRAINT fk_result_job_id FOREIGN KEY(job_id) REFERENCES job (id), 
	CONSTRAINT uq_result_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "result" VALUES(1,1,'report','1.2.840.10008.5.1.4.1.1.88.34','2.25.1','2.25.2','SR','results/aa/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.dcm','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',9,NULL,NULL);
CREATE TABLE routes_version (
	id INTEGER NOT NULL, 
	text TEXT NOT NULL, 
	"by" VARCHAR(64) NOT NULL, 
	reason VARCHAR(200) NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_routes_version PRIMARY KEY (id)
);
INSERT INTO "routes_version" VALUES(1,'cine: {analyses: [ventricular_function]}','ann','made up','2026-03-01 12:00:00.000000');
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
CREATE TABLE shadow_comparison (
	id INTEGER NOT NULL, 
	study_id INTEGER, 
	route VARCHAR(41) NOT NULL, 
	version VARCHAR(24) NOT NULL, 
	scanner VARCHAR(160) NOT NULL, 
	compared_at DATETIME NOT NULL, 
	probability DOUBLE NOT NULL, 
	present BOOLEAN NOT NULL, 
	predicted_percent DOUBLE NOT NULL, 
	acquired_percent DOUBLE NOT NULL, 
	segments JSON NOT NULL, 
	CONSTRAINT pk_shadow_comparison PRIMARY KEY (id), 
	CONSTRAINT fk_shadow_comparison_study_id FOREIGN KEY(study_id) REFERENCES study (id), 
	CONSTRAINT uq_shadow_comparison_study_id_route UNIQUE (study_id, route)
);
INSERT INTO "shadow_comparison" VALUES(1,1,'cine','1.0.0','MADE UP 1.5 T','2026-03-01 12:00:00.000000',0.75,1,12.5,10.0,'{"1": [0.9, true], "2": [0.1, false]}');
CREATE TABLE study (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	first_received_at DATETIME NOT NULL, 
	last_received_at DATETIME NOT NULL, 
	last_association_id VARCHAR(32) NOT NULL, 
	removed_at DATETIME, instances INTEGER DEFAULT '0' NOT NULL, committed_at DATETIME, 
	CONSTRAINT pk_study PRIMARY KEY (id), 
	CONSTRAINT fk_study_last_association_id FOREIGN KEY(last_association_id) REFERENCES association (id), 
	CONSTRAINT uq_study_study_instance_uid UNIQUE (study_instance_uid)
);
INSERT INTO "study" VALUES(1,'1.2.3',1,'2026-03-01 12:00:00.000000','2026-03-01 12:00:00.000000','0123456789abcdef0123456789abcdef',NULL,2,NULL);
CREATE TABLE study_attributes (
	study_id INTEGER NOT NULL, 
	patient_id VARCHAR(64) NOT NULL, 
	attributes JSON NOT NULL, 
	CONSTRAINT pk_study_attributes PRIMARY KEY (study_id), 
	CONSTRAINT fk_study_attributes_study_id FOREIGN KEY(study_id) REFERENCES study (id)
);
INSERT INTO "study_attributes" VALUES(1,'MADE-UP-1','{"AccessionNumber": "A1", "PatientID": "MADE-UP-1"}');
CREATE INDEX ix_association_closed_at ON association (closed_at);
CREATE INDEX ix_study_last_received_at ON study (last_received_at);
CREATE INDEX ix_association_study_study_id ON association_study (study_id);
CREATE INDEX ix_event_at ON event (at);
CREATE INDEX ix_event_correlation_id ON event (correlation_id);
CREATE INDEX ix_event_study_id ON event (study_id);
CREATE INDEX ix_series_series_instance_uid ON series (series_instance_uid);
CREATE INDEX ix_instance_series_id ON instance (series_id);
CREATE INDEX ix_quarantine_at ON quarantine (at);
CREATE INDEX ix_result_job_id ON result (job_id);
CREATE INDEX ix_delivery_claim ON delivery (destination, state, due_at);
CREATE INDEX ix_commitment_request_delivery_id ON commitment_request (delivery_id);
CREATE INDEX ix_instance_waiting ON instance (series_id, received_at) WHERE study_version IS NULL AND removed_at IS NULL;
CREATE INDEX ix_study_present ON study (last_received_at) WHERE removed_at IS NULL;
CREATE INDEX ix_delivery_state ON delivery (state);
CREATE INDEX ix_commitment_transaction_due ON commitment_transaction (state, due_at);
CREATE INDEX ix_study_attributes_patient_id ON study_attributes (patient_id);
CREATE INDEX ix_performed_step_changed_at ON performed_step (changed_at);
CREATE INDEX ix_performed_step_study_study_instance_uid ON performed_step_study (study_instance_uid);
CREATE INDEX ix_association_untold ON association (closed_at) WHERE audited_at IS NULL AND closed_at IS NOT NULL;
CREATE INDEX ix_job_study_id ON job (study_id);
CREATE INDEX ix_job_claim ON job (state, priority, created_at);
CREATE INDEX ix_study_removed ON study (removed_at) WHERE removed_at IS NOT NULL;
CREATE INDEX ix_instance_association_id ON instance (association_id);
CREATE INDEX ix_study_last_association_id ON study (last_association_id);
CREATE INDEX ix_quarantine_association_id ON quarantine (association_id);
CREATE INDEX ix_quarantine_job_id ON quarantine (job_id);
CREATE INDEX ix_console_session_account_id ON console_session (account_id);
CREATE INDEX ix_log_in_failure_at ON log_in_failure (at);
CREATE INDEX ix_assessment_study_instance_uid ON assessment (study_instance_uid);
CREATE INDEX ix_shadow_comparison_compared_at ON shadow_comparison (compared_at);
CREATE INDEX ix_instance_held ON instance (held_by) WHERE held_by IS NOT NULL;
CREATE INDEX ix_imaging_order_order_number ON imaging_order (order_number);
CREATE INDEX ix_imaging_order_received_at ON imaging_order (received_at);
CREATE INDEX ix_imaging_order_new ON imaging_order (id) WHERE considered_at IS NULL;
CREATE INDEX ix_order_message_received_at ON order_message (received_at);
COMMIT;
