-- Fills the log with :rows rows over thirty months, the last of which is this one. Indexes are made afterwards: that is faster.
SET synchronous_commit = off;
SET maintenance_work_mem = '512MB';
CREATE TABLE bench_index AS SELECT indexdef FROM pg_indexes WHERE tablename = 'log' AND indexname NOT LIKE 'log_pkey%';
DROP INDEX log_identificativo, log_msgid, log_message_id, log_happened_at, log_event, log_queue_id, log_account, log_error, log_addresses;
SELECT format('SELECT log_month(%L)', month), format('INSERT INTO log SELECT * FROM bench_rows(%s, %s, %L, %L)', n * messages, messages,
       month::text || ' 00:00+00', (month + interval '1 month')::date::text || ' 00:00+00')
FROM (SELECT n, (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => n - 29))::date AS month, :rows / 30 / 6 AS messages
      FROM generate_series(0, 29) AS n) AS month ORDER BY n \gexec
SELECT replace(indexdef, ' ON ONLY ', ' ON ') FROM bench_index \gexec
ANALYZE log;
VACUUM log;
