-- What the programs keep, and may do with it. Printed by `pecctl schema`; applied by the owner of the database:
--     pecctl schema | psql -v ON_ERROR_STOP=1 pec
-- The role pec_milter can add and look up; it cannot remove anything, and change nothing but what became of a fact's notice
-- and of an envelope's deadlines.
-- mac: by a key that is not in the database (pec_row_keys_file, milters/state/src/authentic.rs). What is written here without that
-- key leads to an alarm and to nothing else.

CREATE TABLE IF NOT EXISTS pec_schema (version integer PRIMARY KEY);
INSERT INTO pec_schema VALUES (1);

-- Envelopes that the Access Point signed. A row says "signed", not "sent": a fact is a row of the table fact.
CREATE TABLE sent (
    id               text        PRIMARY KEY,     -- names the trigger accettazione+ID
    envid            text        NOT NULL UNIQUE, -- under it Postfix reports on what it cannot send out
    provider         text        NOT NULL,        -- our own name at that time
    identificativo   text        NOT NULL UNIQUE,
    daticert         text        NOT NULL,        -- the envelope's daticert.xml
    body_sha256      bytea       NOT NULL,        -- of the signed body: only these bytes make a trigger work
    signed_at        timestamptz NOT NULL CHECK (isfinite(signed_at)),
    mac              bytea       NOT NULL
);

-- Submissions that the Access Point did not accept.
CREATE TABLE not_accepted (
    id             text        PRIMARY KEY,
    provider       text        NOT NULL,          -- our own name at that time
    daticert       text        NOT NULL,          -- the notice's daticert.xml
    inglese        text        NOT NULL,          -- the cause in English; in Italian it is in daticert.xml
    mac            bytea       NOT NULL
);

-- Envelopes that the Incoming Point took, a row for each copy that came; and our own, for recipients of ours.
CREATE TABLE custody (
    id             text        PRIMARY KEY,       -- names the trigger presa-in-carico+ID
    envid          text        NOT NULL UNIQUE,   -- under it Postfix hands it to pec-delivery; no client can set one
    provider       text        NOT NULL,          -- who signed
    mail_receipt   text        NOT NULL,          -- where the presa in carico goes
    identificativo text        NOT NULL,
    daticert       text        NOT NULL,
    recipients     text[]      NOT NULL,
    body_sha256    bytea       NOT NULL,          -- of the whole body: only these bytes reach a mailbox, or make a trigger work
    content_sha256 bytea       NOT NULL,          -- of what the provider signed: this is the envelope, whatever surrounds it
    taken_at       timestamptz NOT NULL CHECK (isfinite(taken_at)),
    mac            bytea       NOT NULL
);
CREATE INDEX custody_envelope ON custody (identificativo);
CREATE INDEX custody_taken ON custody (taken_at);

-- What else a milter let pass to mailboxes of ours.
CREATE TABLE passed (
    envid          text        PRIMARY KEY,       -- under it Postfix hands it to pec-delivery; no client can set one
    kind           text        NOT NULL,          -- ricevuta-dovuta, ricevuta, anomalia, rapporto, locale
    body_sha256    bytea       NOT NULL,          -- only these bytes reach a mailbox
    recipients     text[]      NOT NULL,          -- for whom (keys)
    mac            bytea       NOT NULL
);

-- What is true, once: the first row for a key wins, and the notice about it is made from this row alone.
CREATE TABLE fact (
    id             text        PRIMARY KEY,       -- names the trigger KIND+ID, and is the notice's ENVID
    provider       text        NOT NULL,          -- of the envelope's sender
    identificativo text        NOT NULL,
    kind           text        NOT NULL,          -- which notice it leads to
    recipient      text        NOT NULL,          -- key of the recipient; of several, joined by blanks; empty for an acceptance
    source         text        NOT NULL,          -- sent.id, custody.id or not_accepted.id
    source_mac     bytea       NOT NULL,          -- that row's mac
    happened_at    timestamptz NOT NULL CHECK (isfinite(happened_at)),
    time_source    text        NOT NULL,          -- clock, mailbox, mailbox-again, report
    status         text        NOT NULL,          -- enhanced status code of a failure
    message_id     text        NOT NULL,          -- of the notice
    mac            bytea       NOT NULL,          -- of all above
    notice_sha256  bytea,                         -- of the notice's body, once made
    made_with      text,                          -- certificate and program version that made it
    notice_mac     bytea,                         -- of these two and of the fact
    handed_over    boolean     NOT NULL DEFAULT false, -- the notice is in a mailbox of ours or in Postfix's queue; the table handover says when
    deadlines_seen smallint    NOT NULL DEFAULT 0  -- of an accettazione: how many of the deadlines pec-clock has seen to
);
-- A presa in carico is about hundreds of recipients, and an entry of an index has 2,704 bytes at most: hence the hash.
CREATE UNIQUE INDEX fact_once ON fact (identificativo, provider, kind, md5(recipient));
-- What pec-clock looks through every minute: small, however long the table is.
CREATE INDEX fact_deadlines ON fact (deadlines_seen, happened_at, id) WHERE kind = 'accettazione' AND deadlines_seen < 2;
CREATE INDEX fact_to_raise ON fact (happened_at, kind, id) WHERE NOT handed_over;

-- What pec-delivery hands to a mailbox, or a notice to Postfix: a row is there before the first byte goes, so that a database which
-- takes no rows makes no copies; and a row for the answer. One without is open: the message may be there.
CREATE TABLE handover (
    message        text        NOT NULL,          -- its ENVID: custody.envid, passed.envid, fact.id
    recipient      text        NOT NULL,          -- to whom (key)
    attempt        text        NOT NULL,          -- which handing over
    what           text        NOT NULL,          -- begun, no, no-mailbox, taken; that an envelope was taken is a fact
    answered_at    timestamptz CHECK (isfinite(answered_at)),
    mac            bytea       NOT NULL,
    PRIMARY KEY (message, recipient, attempt, what)
);

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
    happened_at    timestamptz NOT NULL CHECK (isfinite(happened_at)), -- the time that it certifies
    content_sha256 bytea       NOT NULL,          -- of what the provider signed: another content is another receipt
    mac            bytea       NOT NULL,          -- with that of our envelope's row
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
GRANT SELECT, INSERT ON sent, not_accepted, custody, passed, handover, trigger_body, ricevuta, log TO pec_milter;
GRANT SELECT, INSERT, UPDATE (notice_sha256, made_with, notice_mac, handed_over, deadlines_seen) ON fact TO pec_milter;
