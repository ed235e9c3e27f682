-- Who served whom, for as long as it was true: a receipt is weighed by who served its recipient when we accepted the message, or
-- at any time since.

-- The records of the directory that served the recipients at that time, as LDIF; NULL: before this column was there, or nobody did.
-- It is under the row's mac where it is not NULL.
ALTER TABLE sent ADD COLUMN served text;

-- What a record of the directory had until then, and no record has any more: a row for each domain and each certificate, with
-- the record as LDIF.
CREATE TABLE formerly (
    what           text        NOT NULL,          -- a domain, or a certificate's hash, in lower case
    until          timestamptz NOT NULL CHECK (isfinite(until)),
    record         text        NOT NULL,
    mac            bytea       NOT NULL
);
CREATE INDEX formerly_what ON formerly (what, until);
GRANT SELECT, INSERT ON formerly TO pec_milter;
INSERT INTO pec_schema VALUES (3);
