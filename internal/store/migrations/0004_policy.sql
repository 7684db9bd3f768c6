-- What the VM may reach, as internal/policy keeps it ('': everything that is not
-- refused always), and how often that was changed.
ALTER TABLE vms ADD COLUMN policy TEXT NOT NULL DEFAULT '';
ALTER TABLE vms ADD COLUMN policy_revision INTEGER NOT NULL DEFAULT 0;
