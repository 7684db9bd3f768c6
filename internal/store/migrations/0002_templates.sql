-- Whether the first run is kept from a template.
ALTER TABLE vms ADD COLUMN cold INTEGER NOT NULL DEFAULT 0;
-- How the present run began, and why not from a template.
ALTER TABLE vms ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE vms ADD COLUMN template_error TEXT NOT NULL DEFAULT '';
