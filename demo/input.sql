-- Tables with the columns of the files that make demo DATA=folder loads.
CREATE SCHEMA demo_input;
CREATE UNLOGGED TABLE demo_input.workflows (name text, active boolean, created_at timestamptz, updated_at timestamptz, definition jsonb);
CREATE UNLOGGED TABLE demo_input.form_schemas (name text, version int, schema jsonb);
CREATE UNLOGGED TABLE demo_input.form_responses (form_name text, respondent text, started_at timestamptz, submitted_at timestamptz NOT NULL, data jsonb);
