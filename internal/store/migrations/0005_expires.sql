-- When the VM is to be deleted, in Unix milliseconds; 0: never by itself.
ALTER TABLE vms ADD COLUMN expires_ms INTEGER NOT NULL DEFAULT 0;
