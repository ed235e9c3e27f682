-- Rows as a provider's log has them: each message in six rows, from its submission to what became of it.
CREATE FUNCTION bench_rows(first bigint, messages bigint, begins timestamptz, ends timestamptz) RETURNS SETOF log LANGUAGE sql AS $$
    SELECT nextval('log_seq'), at, at, event, 'pec.' || to_char(at, 'YYYYMMDDHH24MISS') || '.' || md5(m::text) || '@gestore.alfa.test',
           '<' || md5('m' || m) || '@client.test>', sender, ARRAY[recipient || ' (certificato)'], 'Oggetto del messaggio numero ' || m,
           'Alfa PEC S.p.A.', 'Alfa PEC S.p.A.', CASE WHEN e < 3 THEN '{}' ELSE ARRAY[recipient] END,
           md5('r' || m || event) || '@gestore.alfa.test', sha256(m::text::bytea), '4j' || upper(substr(md5(m || 'q' || (e + 1) / 2), 1, 12)), md5('v' || m),
           CASE WHEN e = 1 THEN sender END, CASE WHEN e = 1 THEN '192.0.2.' || m % 256 END, CASE WHEN e = 1 THEN 'TLSv1.3 TLS_AES_256_GCM_SHA384' END,
           'clock', CASE WHEN event = 'errore-consegna' THEN (CASE WHEN m % 10000 = 7 THEN '5.7.1' ELSE '5.1.1' END) || ' refused'
                         WHEN event = 'firme-antivirus' THEN 'the virus scanner''s signatures are old' END
    FROM (SELECT m, e, begins + (ends - begins) * ((m - first) * 6 + e - 1) / (messages * 6) AS at,
                 'utente' || hashint8(m) % 20000 || '@pec.alfa.test' AS sender,
                 CASE WHEN m % 20 = 0 THEN 'protocollo@comune1.example' ELSE 'utente' || hashint8(m + 1) % 500000 || '@pec.beta.test' END AS recipient,
                 CASE WHEN m % 100000 = 1 AND e = 6 THEN 'firme-antivirus' WHEN e = 5 AND m % 50 = 7 THEN 'errore-consegna'
                      ELSE (ARRAY['accesso', 'accettazione', 'ricezione', 'presa-in-carico', 'avvenuta-consegna', 'ricevuta-avvenuta-consegna'])[e] END AS event
          FROM generate_series(first, first + messages - 1) AS m, generate_series(1, 6) AS e) AS row
$$;
