SELECT t AS "table", (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM public.%I', t), false, true, '')))[1]::text::bigint AS "rows"
  FROM unnest(ARRAY['workflows', 'workflow_runs', 'node_executions', 'form_schemas', 'form_responses', 'audit_events']) WITH ORDINALITY AS x (t, o)
 ORDER BY o;
