-- What the milters keep, and may do with it. Printed by `pecctl schema`; applied by the owner of the database:
--     pecctl schema | psql -v ON_ERROR_STOP=1 pec
-- The role pec_milter can add and look up; it cannot remove anything, and change nothing but what became of a fact's notice,
-- of an envelope's deadlines and of an original in the store.

CREATE TABLE IF NOT EXISTS pec_schema (version integer PRIMARY KEY);
INSERT INTO pec_schema VALUES (1);

-- Envelopes that the Access Point signed. A row says "signed", not "sent": a fact is a row of the table fact.
CREATE TABLE sent (
    id               text        PRIMARY KEY,     -- names the triggers accettazione+ID and ricezione+ID
    envid            text        NOT NULL UNIQUE, -- under it Postfix reports on what it cannot send out
    provider         text        NOT NULL,        -- our own name at that time
    identificativo   text        NOT NULL UNIQUE,
    daticert         text        NOT NULL,        -- the envelope's daticert.xml
    body_sha256      bytea       NOT NULL,        -- of the signed body: only these bytes make a trigger work
    local_recipients text[]      NOT NULL,        -- those that go the internal way
    signed_at        timestamptz NOT NULL
);

-- Submissions that the Access Point did not accept.
CREATE TABLE not_accepted (
    id             text        PRIMARY KEY,
    provider       text        NOT NULL,          -- our own name at that time
    daticert       text        NOT NULL,          -- the notice's daticert.xml
    inglese        text        NOT NULL           -- the cause in English; in Italian it is in daticert.xml
);

-- Envelopes that the Incoming Point took: a row for each copy that came.
CREATE TABLE custody (
    id             text        PRIMARY KEY,       -- names the trigger presa-in-carico+ID
    envid          text        NOT NULL UNIQUE,   -- under it Postfix reports on the delivery; no client can set one
    mark           text        NOT NULL,          -- in the header of the delivered message, to find it in the mailbox
    provider       text        NOT NULL,          -- who signed
    mail_receipt   text        NOT NULL,          -- where the presa in carico goes
    identificativo text        NOT NULL,
    daticert       text        NOT NULL,
    recipients     text[]      NOT NULL,
    concise        text[]      NOT NULL,          -- those of them whose delivery receipt carries no original
    body_sha256    bytea       NOT NULL,          -- of the whole body: only these bytes make a trigger work
    content_sha256 bytea       NOT NULL,          -- of what the provider signed: this is the envelope, whatever surrounds it
    taken_at       timestamptz NOT NULL,
    original_deleted_at timestamptz               -- null: the store may still hold it
);
CREATE INDEX custody_envelope ON custody (provider, identificativo);
CREATE INDEX custody_originals ON custody (taken_at) WHERE original_deleted_at IS NULL;

-- What is true, once: the first row for a key wins, and the notice about it is made from this row alone.
CREATE TABLE fact (
    id             text        PRIMARY KEY,       -- names the trigger KIND+ID
    provider       text        NOT NULL,          -- of the envelope's sender
    identificativo text        NOT NULL,
    kind           text        NOT NULL,          -- which notice it leads to
    recipient      text        NOT NULL,          -- key of the recipient; of several, joined by blanks; empty for an acceptance
    source         text        NOT NULL,          -- sent.id, custody.id or not_accepted.id
    happened_at    timestamptz NOT NULL,
    time_source    text        NOT NULL,          -- clock, mailbox, report
    status         text        NOT NULL,          -- enhanced status code of a failure
    message_id     text        NOT NULL,          -- of the notice
    notice_sha256  bytea,                         -- of the notice's body, once made
    made_with      text,                          -- certificate and program version that made it
    raising        boolean     NOT NULL DEFAULT false, -- pec-clock starts the notice until it knows it to be in the queue
    raised         boolean     NOT NULL DEFAULT false, -- and now knows it
    deadlines_seen smallint    NOT NULL DEFAULT 0  -- of an accettazione: how many of the deadlines pec-clock has seen to
);
-- A presa in carico is about hundreds of recipients, and an entry of an index has 2,704 bytes at most: hence the hash.
CREATE UNIQUE INDEX fact_once ON fact (provider, identificativo, kind, md5(recipient));
-- What pec-clock looks through every minute: small, however long the table is.
CREATE INDEX fact_deadlines ON fact (deadlines_seen, happened_at, id) WHERE kind = 'accettazione' AND deadlines_seen < 2;
CREATE INDEX fact_to_raise ON fact (happened_at, kind, id) WHERE NOT raised AND (notice_sha256 IS NULL OR raising);

-- Bytes, other than the envelope's, with which a trigger may come round: reports that were turned into triggers, and the
-- few words with which pec-clock starts one.
CREATE TABLE trigger_body (
    trigger_name text  NOT NULL,
    body_sha256  bytea NOT NULL,
    PRIMARY KEY (trigger_name, body_sha256)
);

-- Receipts and notices of others about envelopes of ours.
CREATE TABLE ricevuta (
    identificativo text        NOT NULL,
    kind           text        NOT NULL,
    recipient      text        NOT NULL,
    provider       text        NOT NULL,
    message_id     text        NOT NULL,
    happened_at    timestamptz NOT NULL,          -- the time that it certifies
    content_sha256 bytea       NOT NULL,          -- of what the provider signed: another content is another receipt
    PRIMARY KEY (identificativo, kind, recipient, content_sha256)
);

-- The retained log: RFC 6109 s. 2.3's fields and what leads to Postfix's own log.
CREATE TABLE log (
    seq            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
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
    time_source    text        NOT NULL,
    error          text
);
CREATE INDEX log_identificativo ON log (identificativo);
CREATE INDEX log_msgid ON log (msgid);
CREATE INDEX log_message_id ON log (message_id);

CREATE FUNCTION log_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the retained log is never changed';
END $$;
CREATE TRIGGER log_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON log EXECUTE FUNCTION log_stays();

-- One role for all databases of the server: another may have it, or be making it at this moment.
DO $$
BEGIN
    CREATE ROLE pec_milter NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$;
GRANT SELECT ON pec_schema TO pec_milter;
GRANT SELECT, INSERT ON sent, not_accepted, custody, trigger_body, ricevuta, log TO pec_milter;
GRANT SELECT, INSERT, UPDATE (notice_sha256, made_with, raising, raised, deadlines_seen) ON fact TO pec_milter;
GRANT UPDATE (original_deleted_at) ON custody TO pec_milter;
