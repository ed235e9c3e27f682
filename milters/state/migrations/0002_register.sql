-- The retained log becomes a register: partitioned by month, sealed by pec-clock into a Merkle tree (docs/register.md).
-- A milter can add a row and look; the role that seals can add a seal and look; nobody changes or removes anything, but the
-- owner of the database, and what he does is found by `pecctl log verify`.

ALTER TABLE log RENAME TO log_before;
ALTER TABLE log_before ALTER COLUMN seq DROP IDENTITY;
DROP INDEX log_identificativo, log_msgid, log_message_id;

CREATE SEQUENCE log_seq;

CREATE TABLE log (
    seq            bigint      NOT NULL DEFAULT nextval('log_seq'),
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(), -- when the row came in, by the database's clock
    happened_at    timestamptz NOT NULL,
    event          text        NOT NULL,
    identificativo text        NOT NULL,
    msgid          text,
    mittente       text        NOT NULL,
    destinatari    text[]      NOT NULL,
    oggetto        text,
    gestore        text        NOT NULL,          -- the sender's provider
    certified_by   text        NOT NULL,          -- the provider that certifies this event
    recipients     text[]      NOT NULL,          -- those that this event is about
    message_id     text,                          -- of the message generated or received
    message_sha256 bytea,                         -- of its body
    queue_id       text        NOT NULL,
    envid          text,
    account        text,
    client_address text,
    tls            text,                          -- version and cipher with which the message came
    time_source    text        NOT NULL,
    error          text,
    PRIMARY KEY (seq, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE INDEX log_identificativo ON log (identificativo);
CREATE INDEX log_msgid ON log (msgid) WHERE msgid IS NOT NULL;
CREATE INDEX log_message_id ON log (message_id) WHERE message_id IS NOT NULL;

-- By which `pecctl log search` finds the newest rows of a month without sorting it. What each costs: docs/benchmarks.md.
CREATE INDEX log_happened_at ON log (happened_at, seq);
CREATE INDEX log_event ON log (event, happened_at);
CREATE INDEX log_queue_id ON log (queue_id);
CREATE INDEX log_account ON log (account, happened_at) WHERE account IS NOT NULL;

-- The enhanced status code with which an error begins.
CREATE FUNCTION log_error_code(error text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN substring(error FROM '^[245]\.[0-9]{1,3}\.[0-9]{1,3}');
CREATE INDEX log_error ON log (log_error_code(error), happened_at) WHERE log_error_code(error) IS NOT NULL;

-- Whom a row is about, in lower case: the sender, and those recipients that the event is about, or all of the message. Not
-- all of the message in every row: a message to five hundred has five hundred rows, and would have that many entries in each.
CREATE FUNCTION log_addresses(mittente text, destinatari text[], recipients text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF cardinality(recipients) > 0 THEN
        RETURN string_to_array(lower(mittente || E'\n' || array_to_string(recipients, E'\n')), E'\n');
    END IF;
    RETURN string_to_array(regexp_replace(lower(mittente || E'\n' || array_to_string(destinatari, E'\n')), ' \([a-z]*\)(?=\n|$)', '', 'g'), E'\n');
END $$;
CREATE INDEX log_addresses ON log USING gin (log_addresses(mittente, destinatari, recipients));

-- What holds the mail up holds the register up: partitions are made long before they are needed, by pec-clock. A month begins
-- at 00:00 UTC. Gives back whether it was made now.
CREATE FUNCTION log_month(first_day date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    this_month date := date_trunc('month', first_day)::date;
    name text := 'log_' || to_char(this_month, 'YYYY_MM');
BEGIN
    IF to_regclass(name) IS NOT NULL OR EXISTS (SELECT FROM retired WHERE retired.month = this_month) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF log FOR VALUES FROM (%L) TO (%L)', name,
        this_month::text || ' 00:00:00+00', (this_month + interval '1 month')::date::text || ' 00:00:00+00');
    EXECUTE format('CREATE TRIGGER log_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON %I EXECUTE FUNCTION log_stays()', name);
    RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION log_month FROM PUBLIC;

CREATE TRIGGER log_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON log EXECUTE FUNCTION log_stays();

-- Months that left the database after thirty months, in files that had been verified before.
CREATE TABLE retired (
    month      date        PRIMARY KEY,
    first_seq  bigint      NOT NULL,
    last_seq   bigint      NOT NULL,
    rows       bigint      NOT NULL,
    files      text[]      NOT NULL,              -- name and SHA-256 of each day's file
    retired_at timestamptz NOT NULL
);

DO $$ BEGIN
    PERFORM log_month((date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => n))::date) FROM generate_series(0, 2) AS n;
END $$;

-- What was written before there was a register enters it now, in its order.
INSERT INTO log (happened_at, event, identificativo, msgid, mittente, destinatari, oggetto, gestore, certified_by, recipients,
                 message_id, message_sha256, queue_id, envid, account, client_address, time_source, error)
SELECT happened_at, event, identificativo, msgid, mittente, destinatari, oggetto, gestore, certified_by, recipients,
       message_id, message_sha256, queue_id, envid, account, client_address, time_source, error
FROM log_before ORDER BY seq;
DROP TABLE log_before;

-- The seals: which rows came into the tree with which checkpoint. The leaves of a seal are its rows in the order of seq.
CREATE TABLE seal (
    number     bigint         PRIMARY KEY,        -- 0, 1, 2 ...
    first_leaf bigint         NOT NULL UNIQUE,    -- the size of the tree before
    size       bigint         NOT NULL UNIQUE,    -- and after
    seqs       int8multirange NOT NULL,           -- its rows
    high       bigint         NOT NULL,           -- the largest seq that is sealed now
    gaps       int8multirange NOT NULL,           -- those below that may still come: of transactions that were under way
    day        date           NOT NULL,           -- in that day's file its rows are (UTC); never before that of the seal before
    root       bytea          NOT NULL,
    checkpoint text           NOT NULL,           -- C2SP tlog-checkpoint, signed by the log key
    lost       boolean        NOT NULL,           -- the rows are gone, the leaves are known: an older backup was restored
    sealed_at  timestamptz    NOT NULL
);
CREATE INDEX seal_day ON seal (day, number);
CREATE TRIGGER seal_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON seal EXECUTE FUNCTION log_stays();

-- The days whose file is written (RFC 6109 s. 2.3: no interval may exceed 24 hours): no row comes into them any more.
CREATE TABLE day_file (
    day        date        PRIMARY KEY,
    first_leaf bigint      NOT NULL,              -- of its rows; size - first_leaf many
    size       bigint      NOT NULL,
    sha256     bytea       NOT NULL,              -- of the lines, uncompressed; the next day's file names it
    made_at    timestamptz NOT NULL
);
CREATE TRIGGER day_file_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON day_file EXECUTE FUNCTION log_stays();

-- A day that has its file is closed, and a day's file has all that is sealed of it, whoever seals and writes at the same time:
-- one of the two waits here for the other, and looks after that.
CREATE FUNCTION day_is_closed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'70656364'::int); -- "pecd"
    IF TG_TABLE_NAME = 'seal' THEN
        IF EXISTS (SELECT FROM day_file WHERE day_file.day >= NEW.day) THEN
            RAISE EXCEPTION 'the day % has its file', NEW.day;
        END IF;
    ELSIF EXISTS (SELECT FROM seal WHERE seal.day <= NEW.day AND seal.size > NEW.size) THEN
        RAISE EXCEPTION 'more was sealed of the day %', NEW.day;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER seal_day_is_open BEFORE INSERT ON seal FOR EACH ROW EXECUTE FUNCTION day_is_closed();
CREATE TRIGGER day_file_is_whole BEFORE INSERT ON day_file FOR EACH ROW EXECUTE FUNCTION day_is_closed();

DO $$
BEGIN
    CREATE ROLE pec_registrar NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$;
-- Column by column: neither the number of a row nor the time at which it came in is anybody's to say.
REVOKE INSERT ON log FROM pec_milter;
GRANT SELECT ON log TO pec_milter;
GRANT INSERT (happened_at, event, identificativo, msgid, mittente, destinatari, oggetto, gestore, certified_by, recipients,
              message_id, message_sha256, queue_id, envid, account, client_address, tls, time_source, error) ON log TO pec_milter;
GRANT USAGE ON SEQUENCE log_seq TO pec_milter;
GRANT pec_milter TO pec_registrar;
GRANT SELECT, INSERT ON seal, day_file TO pec_registrar;
GRANT SELECT ON seal, day_file, retired TO pec_milter;
GRANT SELECT ON retired TO pec_registrar;
GRANT EXECUTE ON FUNCTION log_month TO pec_registrar;
INSERT INTO pec_schema VALUES (2);
