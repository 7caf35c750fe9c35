-- Who may do what in a keystore's PostgreSQL database. Run it as the owner, after `keyanon keystore init` and after each upgrade;
-- again is harmless:
--
--     psql -v ON_ERROR_STOP=1 -f infra/postgresql/roles.sql postgresql://OWNER@HOST/DATABASE
--
-- Then make the accounts, each with a password of its own or a certificate, and give the owner's to nobody who serves:
--
--     CREATE ROLE ks_service LOGIN PASSWORD '...' IN ROLE keyanon_service;   -- keystore serve, request, approve, release, erase
--     CREATE ROLE ks_ingest  LOGIN PASSWORD '...' IN ROLE keyanon_ingest;    -- keystore ingest
--     CREATE ROLE ks_auditor LOGIN PASSWORD '...' IN ROLE keyanon_auditor;   -- audit verify, log, checkpoint
--     INSERT INTO ingest_accounts VALUES ('ks_ingest', 'photos');            -- whose records it may add; '*': of all data sets
--
-- keyanon_service   reads all; changes what lives; adds to the log and to what is final, and can not change or remove it.
-- keyanon_ingest    adds: records, shred keys, shards, runs, its entries of the log, of its data sets only. It reads no envelope, no
--                   wrapped shred key, no person, request or token, and of the keystore's own secrets only those of ingest. What it
--                   changes: an epoch of records that is full ends; a run that has no data set gets one; a shard's count grows.
-- keyanon_auditor   reads what an audit accounts for, names and wrapped keys among it, and writes nothing.
--
-- The owner migrates, and can do anything: what an owner or a superuser changed is found by `keyanon audit verify`.

SET client_min_messages = warning;

BEGIN;

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['keyanon_service', 'keyanon_ingest', 'keyanon_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO keyanon_service, keyanon_ingest, keyanon_auditor', current_database());
END $$;

CREATE TABLE IF NOT EXISTS ingest_accounts (
    account name NOT NULL,
    dataset text NOT NULL,
    PRIMARY KEY (account, dataset)
);

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO keyanon_service, keyanon_ingest, keyanon_auditor;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, keyanon_service, keyanon_ingest, keyanon_auditor;

-- The service. Final for it, as for everybody: log, its nodes, checkpoints, releases, erased, erasures, policies, approvals, grants.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO keyanon_service;
GRANT INSERT ON log, nodes, checkpoints, releases, erased, erasures, policies, approvals, grants, epoch_keys, secrets, ingest_keys, people,
    approver_keys, bindings, shred_keys, pseudonyms, shards, records, runs, requests, request_images, tokens, replies, milestone, kek_versions TO keyanon_service;
GRANT UPDATE ON epoch_keys, secrets, ingest_keys, people, shred_keys, pseudonyms, requests, replies TO keyanon_service;
GRANT UPDATE (revoked_at, tag) ON tokens TO keyanon_service;
GRANT UPDATE (unbound_at, tag) ON bindings TO keyanon_service;
GRANT UPDATE (removed_at) ON approver_keys TO keyanon_service;
GRANT UPDATE (dataset) ON runs TO keyanon_service;
GRANT UPDATE (records) ON shards TO keyanon_service;
GRANT DELETE ON shred_keys, pseudonyms, records, replies, milestone TO keyanon_service;

-- Ingest.
GRANT SELECT ON alembic_version, identity, kek_versions, secrets, epoch_keys, ingest_keys, runs, shards, erased, erasures, log,
    nodes, checkpoints, milestone, ingest_accounts TO keyanon_ingest;
GRANT SELECT (record_id, run_id, dataset, sealed_sha256) ON records TO keyanon_ingest;
GRANT INSERT ON log, nodes, checkpoints, erased, epoch_keys, shred_keys, records, shards, runs TO keyanon_ingest;
GRANT UPDATE (state, deactivated_at) ON epoch_keys TO keyanon_ingest;
GRANT UPDATE (dataset) ON runs TO keyanon_ingest;
GRANT UPDATE (records) ON shards TO keyanon_ingest;

-- Auditor. Tokens are accounted for by the digest of their rows; replies are of no account.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO keyanon_auditor;
REVOKE SELECT ON replies, ingest_accounts FROM keyanon_auditor;

-- Rows. The owner stands above these rules; who has no rule for a table sees and adds nothing.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['records', 'shred_keys', 'pseudonyms', 'runs', 'shards', 'erased', 'erasures', 'secrets', 'epoch_keys', 'log'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('DROP POLICY IF EXISTS service ON %I', name);
        EXECUTE format('DROP POLICY IF EXISTS auditor ON %I', name);
        EXECUTE format('DROP POLICY IF EXISTS ingest ON %I', name);
        EXECUTE format('DROP POLICY IF EXISTS ingest_ends ON %I', name);
        EXECUTE format('CREATE POLICY service ON %I TO keyanon_service USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY auditor ON %I FOR SELECT TO keyanon_auditor USING (true)', name);
    END LOOP;
END $$;

-- Whether the account that is connected may add to a data set.
CREATE OR REPLACE FUNCTION may_add_to(wanted text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM ingest_accounts WHERE account = current_user AND dataset IN (wanted, '*'))
$$;

CREATE POLICY ingest ON records TO keyanon_ingest USING (may_add_to(dataset)) WITH CHECK (may_add_to(dataset));
CREATE POLICY ingest ON shred_keys TO keyanon_ingest USING (may_add_to(dataset)) WITH CHECK (may_add_to(dataset));
CREATE POLICY ingest ON runs TO keyanon_ingest
    USING (dataset IS NULL OR may_add_to(dataset)) WITH CHECK (dataset IS NULL OR may_add_to(dataset));
CREATE POLICY ingest ON shards TO keyanon_ingest
    USING (run_id IN (SELECT run_id FROM runs)) WITH CHECK (run_id IN (SELECT run_id FROM runs));
CREATE POLICY ingest ON erasures FOR SELECT TO keyanon_ingest USING (may_add_to(dataset));
CREATE POLICY ingest ON erased TO keyanon_ingest USING (true) WITH CHECK (kind = 'refused');
CREATE POLICY ingest ON secrets FOR SELECT TO keyanon_ingest USING (name IN ('subject-index', 'ingest-log-signing'));
CREATE POLICY ingest ON epoch_keys TO keyanon_ingest
    USING (purpose IN ('index', 'ingest', 'records')) WITH CHECK (purpose = 'records' AND state = 'active');
-- An epoch of records ends, and nothing else of it changes (the columns granted; the trigger on states).
CREATE POLICY ingest_ends ON epoch_keys FOR UPDATE TO keyanon_ingest
    USING (purpose = 'records') WITH CHECK (purpose = 'records' AND state = 'deactivated');
CREATE POLICY ingest ON log TO keyanon_ingest USING (true) WITH CHECK (true);

COMMIT;
