-- Single rows inserted into a month's table with no index but the first, and then with one more after the other.
\ir rows.sql
DO $$
DECLARE
    said text; index text; start timestamptz; took numeric; before numeric; row log; n int := 30000; rows log[];
    definitions text[] := ARRAY['PRIMARY KEY', '(identificativo)', '(msgid) WHERE msgid IS NOT NULL', '(message_id) WHERE message_id IS NOT NULL',
        '(happened_at, seq)', '(event, happened_at)', '(queue_id)', '(account, happened_at) WHERE account IS NOT NULL',
        '(log_error_code(error), happened_at) WHERE log_error_code(error) IS NOT NULL', 'USING gin (log_addresses(mittente, destinatari, recipients))'];
BEGIN
    rows := ARRAY(SELECT r FROM bench_rows(1, n / 6, now() - interval '1 day', now()) AS r);
    CREATE TABLE one (LIKE log);
    FOREACH index IN ARRAY definitions LOOP
        TRUNCATE one;
        IF index = 'PRIMARY KEY' THEN ALTER TABLE one ADD PRIMARY KEY (seq, recorded_at); ELSE EXECUTE 'CREATE INDEX ON one ' || index; END IF;
        took := NULL;
        FOR attempt IN 1..3 LOOP
            TRUNCATE one;
            start := clock_timestamp();
            FOREACH row IN ARRAY rows LOOP
                INSERT INTO one SELECT row.*;
            END LOOP;
            took := least(took, extract(epoch FROM clock_timestamp() - start) * 1e6 / n);
        END LOOP;
        RAISE NOTICE '| % | % us a row | % us more |', index, round(took, 1), round(took - coalesce(before, took), 1);
        before := took;
    END LOOP;
    DROP TABLE one;
END $$;
